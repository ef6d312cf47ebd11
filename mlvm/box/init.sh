#!/bin/sh
# The first program of a guest that came in a box: stacks the layers into a root, and hands over to systemd.
#
# As the image's own init.sh, but the layers are partitions of one disk, on whatever controller the hypervisor has, and
# are found by their names (mlvm.layers=system,modules,python,box are mlvm-system, mlvm-modules ...). The partition
# mlvm-overlay takes the changes. Whatever is missing is said on the console.

export PATH=/bin
# Hundredths of seconds to wait for a disk that is slow to appear.
PATIENCE=6000

say() { echo "mlvm: $1"; }

fail() {
    say "$1"
    sleep 2
    poweroff -f
    exit 1
}

# Set $device to the partition called mlvm-$1. Only one whose disk has them all is ours; the first is.
find_partition() {
    for facts in /sys/class/block/*/uevent; do
        found=
        device=
        while IFS== read -r key value; do
            case $key in
                DEVNAME) device=/dev/$value ;;
                PARTNAME) found=$value ;;
            esac
        done < "$facts"
        [ "$found" != "mlvm-$1" ] || return 0
    done
    return 1
}

wait_for() {
    waited=0
    until find_partition "$1"; do
        [ "$waited" -lt "$PATIENCE" ] || fail "partition \`mlvm-$1\` is missing: no disk that this guest kernel sees has it"
        sleep 0.05
        waited=$((waited + 5))
    done
}

# Make the device nodes that list $1 of depmod names ("fuse fuse c10:229"): opening one loads its module.
nodes_of() {
    while read -r module node number; do
        case $node in
            [!/]*/*) mkdir -p "/dev/${node%/*}" ;;
        esac
        type=${number%%[0-9]*}
        number=${number#"$type"}
        [ "$module" = "#" ] || [ -e "/dev/$node" ] || mknod -m 0600 "/dev/$node" "$type" "${number%:*}" "${number#*:}"
    done < "$1"
}

mount -t devtmpfs devtmpfs /dev
mount -t proc proc /proc
mount -t sysfs sysfs /sys

# Most are for other hypervisors' hardware than this one's, and refuse: that is nothing to tell.
while read -r module; do
    insmod "/lib/modules/$module.ko" 2>/dev/null
done < /lib/modules/order

layers=
read -r words < /proc/cmdline
for word in $words; do
    case $word in
        mlvm.layers=*) layers=${word#*=} ;;
    esac
done
[ -n "$layers" ] || fail "no layers: mlvm.layers= is missing on the guest kernel's command line"
say "stacking the layers"

lower=
IFS=,
for layer in $layers; do
    unset IFS
    wait_for "$layer"
    mkdir -p "/layers/$layer"
    mount -t erofs -o ro "$device" "/layers/$layer" || fail "layer \`$layer\` cannot be mounted: $device is damaged"
    # overlayfs wants the topmost first.
    lower="/layers/$layer${lower:+:$lower}"
done
unset IFS

wait_for overlay
mount -t ext4 -o noatime "$device" /overlay || fail "the partition for changes cannot be mounted: $device is damaged"
[ ! -e /overlay/upper/tmp ] || rm -rf /overlay/upper/tmp
mkdir -p /overlay/upper /overlay/work
mount -t overlay -o "lowerdir=$lower,upperdir=/overlay/upper,workdir=/overlay/work" root /root \
    || fail "the layers cannot be stacked"
[ -x /root/usr/lib/systemd/systemd ] || fail "the layers have no systemd: init cannot be found"
say "root ready"

for list in /root/usr/lib/modules/*/modules.devname; do
    [ -r "$list" ] && nodes_of "$list"
done

umount /proc
umount /sys
mount --move /dev /root/dev
exec switch_root /root /sbin/init
fail "init cannot be started"
