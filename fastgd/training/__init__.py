"""`fit`: its runs, their history, and the files that they are kept in."""
