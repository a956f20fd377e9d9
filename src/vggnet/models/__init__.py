"""The networks: Table 1 as data, heads, exact conversions, initialization."""
