#!/bin/sh
# The first program of the guest: stacks the layers into a root, and hands over to systemd.
#
# The guest kernel's command line names the layers, lowest first (mlvm.layers=system,modules,python,agent). Each is a
# disk whose serial is the layer's name; the disk with serial `overlay` takes the changes, memory does when there is
# none. Whatever is missing is said on the console, and the guest switches itself off: nobody waits for a dead boot.
#
# What would cost services of their own later is done on the way, for a tenth of their time: the address
# (mlvm.network=ADDRESS,NETMASK,GATEWAY), an empty /tmp, device nodes whose opening loads a module.

export PATH=/bin
# Hundredths of seconds to wait for a disk that is slow to appear.
PATIENCE=500

say() { echo "mlvm: $1"; }

fail() {
    say "$1"
    # Let the last line out of the serial port.
    sleep 0.1
    poweroff -f
    # Only when there is nothing to switch off with: the guest kernel panics, and that ends the machine as well.
    exit 1
}

# Print the device whose serial is $1.
device_of() {
    for disk in /sys/block/*; do
        serial=
        [ -r "$disk/serial" ] && read -r serial < "$disk/serial"
        if [ "$serial" = "$1" ]; then
            echo "/dev/${disk##*/}"
            return 0
        fi
    done
    return 1
}

# Set $device to the disk of layer $1, waiting for it if need be.
find_layer() {
    waited=0
    until device=$(device_of "$1"); do
        [ "$waited" -lt "$PATIENCE" ] || fail "layer \`$1\` is missing: no disk has this serial"
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

# Give the network card address, netmask and gateway $1, separated by commas.
set_address() {
    rest=${1#*,}
    ifconfig eth0 "${1%%,*}" netmask "${rest%,*}" && route add default gw "${rest#*,}" \
        || say "the network has no address"
}

mount -t devtmpfs devtmpfs /dev
mount -t proc proc /proc
mount -t sysfs sysfs /sys
read -r uptime _ < /proc/uptime
say "stacking the layers at $uptime s"

while read -r module; do
    insmod "/lib/modules/$module.ko" || say "module \`$module\` cannot be loaded"
done < /lib/modules/order

layers=
network=
read -r words < /proc/cmdline
for word in $words; do
    case $word in
        mlvm.layers=*) layers=${word#*=} ;;
        mlvm.network=*) network=${word#*=} ;;
    esac
done
[ -n "$layers" ] || fail "no layers: mlvm.layers= is missing on the guest kernel's command line"

lower=
IFS=,
for layer in $layers; do
    unset IFS
    find_layer "$layer"
    mkdir -p "/layers/$layer"
    mount -t erofs -o ro "$device" "/layers/$layer" || fail "layer \`$layer\` cannot be mounted: $device is damaged"
    # overlayfs wants the topmost first.
    lower="/layers/$layer${lower:+:$lower}"
done
unset IFS

if device=$(device_of overlay); then
    mount -t ext4 -o noatime,discard "$device" /overlay || fail "the overlay disk cannot be mounted: $device is damaged"
    # /tmp begins empty, and nothing has to wait for somebody to empty it.
    [ ! -e /overlay/upper/tmp ] || rm -rf /overlay/upper/tmp
else
    mount -t tmpfs -o mode=0755 overlay /overlay || fail "memory for the overlay cannot be had"
fi
mkdir -p /overlay/upper /overlay/work
mount -t overlay -o "lowerdir=$lower,upperdir=/overlay/upper,workdir=/overlay/work" root /root \
    || fail "the layers cannot be stacked"
[ -x /root/usr/lib/systemd/systemd ] || fail "the layers have no systemd: init cannot be found"
say "root ready"

# What the agent's interpreter needs of the disk is read by the time systemd starts it, where another CPU is idle.
read -r cpus < /sys/devices/system/cpu/online
[ "$cpus" = 0 ] || [ ! -x /root/usr/bin/python3 ] \
    || chroot /root /usr/bin/python3 -I -S /usr/lib/mlvm/agent/main.py --foretaste < /dev/null > /dev/kmsg 2>&1 &

for list in /root/usr/lib/modules/*/modules.devname; do
    [ -r "$list" ] && nodes_of "$list"
done
[ -z "$network" ] || set_address "$network"

umount /proc
umount /sys
mount --move /dev /root/dev
exec switch_root /root /sbin/init
fail "init cannot be started"
