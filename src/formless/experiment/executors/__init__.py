"""Where runs are done: in this process, or in supervised processes of this machine."""
