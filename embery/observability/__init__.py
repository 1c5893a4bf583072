"""What a running program shows of itself: logs and progress."""
