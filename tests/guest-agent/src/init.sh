# The first program of a guest: mounts, modules, and the root that the agent goes on in.
# The kernel's command line says what: beamsplit.modules=gpu,disk, beamsplit.root=/dev/vda, beamsplit.over=/dev/vdb for what lies on top
# of that, and beamsplit.init when another program than the agent is to be the first one later.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs tmp /tmp

modules= root= over= init=
for word in $(cat /proc/cmdline); do
    case $word in
    beamsplit.modules=*) modules=${word#*=} ;;
    beamsplit.root=*) root=${word#*=} ;;
    beamsplit.over=*) over=${word#*=} ;;
    beamsplit.init) init=yes ;;
    esac
done

for group in $(echo "$modules" | tr , ' '); do
    for module in /modules/"$group"/*.ko; do
        insmod "$module" 2>/tmp/insmod || grep -q 'File exists' /tmp/insmod || cat /tmp/insmod
    done
done

[ -n "$root" ] || exit 0
mkdir -p /lower /upper
lower=/lower
for disk in $root $over; do
    # Programs' libraries are large, and read from all over.
    echo 4096 >"/sys/block/${disk#/dev/}/queue/read_ahead_kb"
done
mount -o ro "$root" /lower
if [ -n "$over" ]; then
    mkdir -p /over
    mount -o ro "$over" /over
    lower=/over:/lower
fi
mount -t tmpfs upper /upper
mkdir /upper/data /upper/work
mount -t overlay -o lowerdir=$lower,upperdir=/upper/data,workdir=/upper/work overlay /newroot
for dir in /proc /sys /dev /run /tmp; do
    mount --rbind $dir /newroot$dir
done
mkdir -p /newroot/lib/modules
cp /bin/busybox /run/busybox
# Who writes the name of a program there makes that the first one.
[ -z "$init" ] || mkfifo /run/init
