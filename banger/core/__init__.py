"""What banger does with what plugins declare: load, plan, apply, tear down, remember. Imports no kernel interface."""
