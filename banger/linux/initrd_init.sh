#!/bin/sh
# First process of the guest: load the modules, put the root file system together, hand over to its init.
#
#   banger.probe                                   say so on the console and power off
#   banger.root=overlay banger.lower=DEV banger.upper=DEV
#                                                  DEV's /upper and /work over the read-only lower file system
#   banger.root=DEV                                one writable ext4 file system
#   init=PATH                                      what to run instead of /sbin/init
export PATH=/bin

give_up() {
    echo "banger: $*"
    poweroff -f
    sleep 60  # power goes off in the kernel's own time; falling through would be a panic
}

wait_for() {
    tries=0
    while [ ! -b "$1" ]; do
        tries=$((tries + 1))
        [ "$tries" -le 100 ] || give_up "no block device $1 after 10 s (there are: $(cd /sys/block && echo *))"
        sleep 0.1
    done
}

mount_ext4() {  # DEVICE DIRECTORY OPTIONS
    wait_for "$1"
    mount -t ext4 -o "$3" "$1" "$2" || give_up "cannot mount $1 as ext4 ($3)"
}

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev

root='' lower='' upper='' init=/sbin/init probe=''
for word in $(cat /proc/cmdline); do
    case "$word" in
        banger.probe) probe=yes ;;
        banger.root=*) root=${word#*=} ;;
        banger.lower=*) lower=${word#*=} ;;
        banger.upper=*) upper=${word#*=} ;;
        init=*) init=${word#*=} ;;
    esac
done

if [ -n "$probe" ]; then
    echo "banger: probe"
    poweroff -f
    sleep 60
fi

while read -r module; do
    insmod "/lib/modules/$module" || echo "banger: cannot load $module"
done < /lib/modules/order

case "$root" in
    overlay)
        [ -n "$lower" ] && [ -n "$upper" ] || give_up "banger.root=overlay needs banger.lower= and banger.upper="
        mount_ext4 "$lower" /lower ro
        mount_ext4 "$upper" /upper rw
        [ -d /upper/upper ] && [ -d /upper/work ] || give_up "$upper has no directories upper and work"
        mount -t overlay -o lowerdir=/lower,upperdir=/upper/upper,workdir=/upper/work overlay /new ||
            give_up "cannot mount $upper over $lower"
        ;;
    /dev/*) mount_ext4 "$root" /new rw ;;
    *) give_up "the kernel command line has no banger.root=overlay or banger.root=/dev/..." ;;
esac

[ -x "/new$init" ] || [ -L "/new$init" ] || give_up "the root file system has no $init"
for directory in dev sys proc; do  # proc last: busybox starts its applets through /proc/self/exe
    [ -d "/new/$directory" ] || mkdir "/new/$directory" || give_up "the root file system has no /$directory"
    mount -o move "/$directory" "/new/$directory" || give_up "cannot move /$directory into the root file system"
done
exec switch_root /new "$init"
# Only reached when switch_root itself could not be run.
give_up "cannot run switch_root"
