"""The commands of this room; what each needs is imported when it is called."""
