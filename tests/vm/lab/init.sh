#!/bin/sh
# The first process of a guest: mounts the host's root file system read-only with a writable
# layer in memory above it, prepares what a booted host has, and goes on there.
# The kernel's command line names the guest's own folder on the host (lab.dir=...); its file
# boot.env says the rest: see boot.py.
set -eu
export PATH=/bin
/bin/busybox --install -s /bin
trap 'echo "LAB: init failed"; poweroff -f' EXIT

mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
while read -r module; do
    insmod "/modules/$module" || echo "LAB: goes on without $module" # this processor cannot
done </modules/order

for word in $(cat /proc/cmdline); do
    case $word in lab.dir=*) lab_dir=${word#lab.dir=} ;; esac
done
mount -t 9p -o "ro,trans=virtio,version=9p2000.L,msize=524288,cache=loose" host /host
mount -t tmpfs -o size=75% rw /rw
mkdir /rw/upper /rw/work
mount -t overlay -o lowerdir=/host,upperdir=/rw/upper,workdir=/rw/work overlay /new

for dir in dev proc sys; do mount -o move "/$dir" "/new/$dir"; done
rm -r /dev
ln -s /new/dev /dev
for dir in run tmp; do mount -t tmpfs -o size=50% "$dir" "/new/$dir"; done
chmod 1777 /new/tmp
mkdir -p /new/dev/pts /new/dev/shm /new/run/lab
mount -t devpts -o ptmxmode=666 pts /new/dev/pts
mount -t tmpfs shm /new/dev/shm
ln -sf /proc/self/fd /new/dev/fd
mkdir /new/run/lab/bin
cp /bin/busybox /new/run/lab/bin/busybox
chroot /new /run/lab/bin/busybox --install -s /run/lab/bin

# shellcheck source=/dev/null  # made by boot.py
. "/host$lab_dir/boot.env"

# What these fresh file systems now hide, although the guest needs it, is put back.
for path in $lab_paths; do
    if [ ! -e "/new$path" ]; then
        mkdir -p "/new$path"
        mount -o bind "/host$path" "/new$path"
    fi
done
mkdir -p "/new/lib/modules/$(uname -r)"
mount -o bind "/host$lab_modules" "/new/lib/modules/$(uname -r)"

hostname "$lab_name"
echo "$lab_name" >/new/etc/hostname
printf '%s\n' "$lab_hosts" >/new/etc/hosts
ip link set lo up
ip addr add "$lab_address/24" dev eth0
ip link set eth0 up

persist() { # KERNEL_NAME: what survives power cuts
    mkdir -p /new/persist /new/var/lib/mdcluster
    mount -t ext4 "/dev/$1" /new/persist
    mkdir -p /new/persist/state /new/persist/etc
    mount -o bind /new/persist/state /new/var/lib/mdcluster
    for name in clusterips mdcluster.toml; do
        ln -sf "/persist/etc/$name" "/new/etc/$name"
    done
}
shared() { # KERNEL_NAME DISK: main.sh puts below a name that a test can make fail
    ln -s "/dev/$1" "/new/dev/disk/lab/$2"
    name=$2
    for pair in $lab_disks; do [ "${pair%%:*}" != "$2" ] || name=${pair#*:}; done
    echo "0 $(cat "/new/sys/block/$1/size") linear /dev/disk/lab/$2 0" >"/new/run/lab/disks/$name"
}
mkdir -p /new/dev/disk/lab /new/run/lab/disks
for disk in /new/sys/block/vd*; do
    serial=$(cat "$disk/serial")
    case $serial in
    lab-persist) persist "${disk##*/}" ;;
    *) shared "${disk##*/}" "$serial" ;;
    esac
done

cat >/new/run/lab/main.sh <<'END'
cd "$lab_checkout"
if [ "$lab_udev" = yes ]; then
    /lib/systemd/systemd-udevd --daemon
    udevadm trigger --type=subsystems --action=add
    udevadm trigger --type=devices --action=add
    udevadm settle --timeout=60
else
    export DM_DISABLE_UDEV=1
fi
for table in /run/lab/disks/*; do
    [ ! -e "$table" ] || dmsetup create "${table##*/}" <"$table"
done
(
    exec </dev/hvc0 >/dev/hvc0 2>&1
    export PS1="$LAB_GUEST:\w# "
    # A shell takes a second to start, so it is started when the first line comes.
    while read -r first; do /run/lab/bin/busybox setsid -c /bin/bash --norc -i; done
) &
while :; do
    $lab_agent </dev/null
    echo "LAB: the agent has ended"
done
END
export PATH="$lab_path" HOME=/root TERM=linux PYTHONDONTWRITEBYTECODE=1
export LAB_GUEST="$lab_name" lab_agent lab_checkout lab_udev
trap - EXIT
exec /bin/busybox switch_root /new /run/lab/bin/busybox sh /run/lab/main.sh
