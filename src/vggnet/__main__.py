"""`python -m vggnet` is the command `vgg`."""

from vggnet.cli.main import main

main()
