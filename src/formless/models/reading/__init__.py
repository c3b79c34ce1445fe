"""How weights are read and checked: whole, in pieces, or spread over devices and disk."""
