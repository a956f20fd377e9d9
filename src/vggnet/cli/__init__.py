"""The command `vgg`: one module a command; each parses, calls one library function and prints."""
