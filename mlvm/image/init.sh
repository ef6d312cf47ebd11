#!/bin/sh
# First program of the guest: find the layers by their disks' serial numbers, lay them over one another, hand over.
#
# The guest kernel's line names the layers, lowest first: mlvm.layers=system,modules,python,agent. A disk with the
# serial number `overlay` takes what the machine writes; without one, memory does.
export PATH=/bin

fail() {
    echo "mlvm-init: $1"
    echo "mlvm: the disks here:"
    for disk in /sys/block/vd*; do echo "  $disk $(cat "$disk/serial" 2>/dev/null)"; done
    sleep 1
    poweroff -f
}

find_disk() { # serial -> /dev/vdX on standard output; the kernel may still be finding disks
    tries=0
    while [ $tries -lt 100 ]; do
        for disk in /sys/block/vd*; do
            if [ "$(cat "$disk/serial" 2>/dev/null)" = "$1" ]; then
                echo "/dev/${disk#/sys/block/}"
                return
            fi
        done
        sleep 0.05
        tries=$((tries + 1))
    done
}

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null
while read -r module; do
    insmod "/lib/modules/$module.ko" || fail "module $module cannot be loaded"
done </lib/modules/order

layers=
for word in $(cat /proc/cmdline); do
    case $word in mlvm.layers=*) layers=${word#mlvm.layers=} ;; esac
done
[ -n "$layers" ] || fail "no mlvm.layers= on the guest kernel's line"

mount -t tmpfs -o mode=0755 layers /layers
lower=
IFS=,
for name in $layers; do
    disk=$(find_disk "$name")
    [ -n "$disk" ] || fail "layer $name is missing: no disk has this serial number"
    mkdir -p "/layers/$name"
    mount -t erofs -o ro "$disk" "/layers/$name" || fail "layer $name cannot be mounted"
    lower=/layers/$name${lower:+:$lower}
done
unset IFS

mkdir -p /layers/.top
top=
for disk in /sys/block/vd*; do
    [ "$(cat "$disk/serial" 2>/dev/null)" != overlay ] || top=/dev/${disk#/sys/block/}
done
if [ -n "$top" ]; then
    mount -t ext4 -o noatime "$top" /layers/.top || fail "the overlay disk cannot be mounted"
else
    mount -t tmpfs -o mode=0755 top /layers/.top
fi
mkdir -p /layers/.top/upper /layers/.top/work
mount -t overlay -o "lowerdir=$lower,upperdir=/layers/.top/upper,workdir=/layers/.top/work" root /root ||
    fail "the layers cannot be laid over one another"

echo "mlvm: root ready"
mount --move /dev /root/dev
mount --move /proc /root/proc
mount --move /sys /root/sys
exec switch_root /root /sbin/init
