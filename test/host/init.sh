#!/busybox sh
# First process of the machine: loads the drivers, puts the root file system together, goes into it.
# If a step fails it ends, the kernel panics, and QEMU ends with the message on the console.
set -eu
/busybox mkdir -p /bin /proc /lower /scratch /merged
/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
for module in /modules/*; do insmod "$module"; done

# What is read comes from the host, what is written goes to the scratch disk.
# redirect_dir: without it a directory of the host cannot be renamed (EXDEV).
mount -t devtmpfs dev /dev
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,ro,cache=loose root /lower
mount -t ext4 -o noatime,noinit_itable /dev/vda /scratch
mkdir /scratch/upper /scratch/work /scratch/home
mount -t overlay -o lowerdir=/lower,upperdir=/scratch/upper,workdir=/scratch/work,redirect_dir=on root /merged

cd /merged
mkdir -p proc sys dev run scratch
mount --move /proc proc
mount --move /dev dev
mount -t sysfs sys sys
mount -t cgroup2 cgroup sys/fs/cgroup
mount -t tmpfs -o mode=755 run run
mkdir -p dev/shm dev/pts run/lock run/host
mount -t tmpfs -o mode=1777 shm dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 pts dev/pts
ln -sf pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr
chmod 666 dev/kvm dev/fuse dev/net/tun

mkdir -m 1777 /scratch/home/tmp
mount --bind /scratch/home scratch
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=none job run/host
cp /busybox run/busybox

# The addresses are those of QEMU's user network. Without it there is only loopback: let a name lookup fail at once.
# (The host's resolv.conf may be a link into /run.)
ip link set lo up
nameserver=127.0.0.1
if [ -e sys/class/net/eth0 ]; then
  ip link set eth0 up
  ip addr add 10.0.2.15/24 dev eth0
  ip route add default via 10.0.2.2
  nameserver=10.0.2.3
fi
hostname software-host
rm -f etc/resolv.conf
echo "nameserver $nameserver" >etc/resolv.conf
echo '127.0.1.1 software-host' >>etc/hosts

exec switch_root /merged /bin/bash /run/host/session
