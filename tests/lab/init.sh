#!/bin/sh
# First process of the lab, after the initrd has laid this run's disk over the system: /lab and the kernel made ready,
# the run's job done, power off.
export PATH=/lab/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root LANG=C.UTF-8 TERM="${TERM:-dumb}"
export BANGER_IN_LAB=1 BANGER_TEST_REQUIRE_ALL=1
export PYTHONPATH=/lab/run/site:/lab/deps PYTHONDONTWRITEBYTECODE=1

mount -t ext4 -o ro /dev/vdb /lab
mount -t ext4 /dev/vdc /lab/run
mount --bind /lab/run/tmp /tmp
mount -t tmpfs -o nosuid,nodev,mode=0755 tmpfs /run
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ln -s /proc/self/fd /dev/fd

modprobe -a virtio_console virtio-rng dm_mod dm_snapshot loop tun veth bridge kvm_amd vhost_vsock \
    nf_tables nft_chain_nat nft_masq nft_nat nft_ct nft_reject_inet
ip link set lo up
cd /lab/run/checkout || exit
read -r up _ < /proc/uptime
echo "lab: ready after $up s"

. /lab/run/job

sync
echo o > /proc/sysrq-trigger
sleep 60  # power goes off in the kernel's own time
