"""Root disks as dm-snapshots."""
