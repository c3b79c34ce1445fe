"""Where runs are executed: in this process, in supervised worker processes of this machine, or on a Ray cluster."""
