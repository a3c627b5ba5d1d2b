"""Episodes in other people's layouts, one file each."""
