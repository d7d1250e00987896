"""Traffic, live clients, the virtual cluster and its reports."""
