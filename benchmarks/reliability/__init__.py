"""What survives: concurrent runs, kills, full disks and power cuts, repeated until a chance fault would show."""
