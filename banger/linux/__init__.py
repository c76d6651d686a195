"""The only room that touches the kernel or spawns a process."""
