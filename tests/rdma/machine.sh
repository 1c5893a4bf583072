#!/usr/bin/env bash
# Runs a command on a throw-away machine that has a software-RoCE device, and ends with its exit
# code:  tests/rdma/machine.sh FOLDER COMMAND
#
# The machine is QEMU with a kernel of Debian's, which FOLDER keeps (75 MB, fetched once by apt-get;
# nothing is installed). It sees this machine's files at the same paths, and what it writes is gone
# afterwards. Its device is rxe0, with the address 10.77.0.1, for both ends of a test. Needs, on
# Debian 12 on x86-64:
#
#   apt-get install --no-install-recommends qemu-system-x86 busybox-static cpio kmod iproute2 \
#     libibverbs1 ibverbs-providers
#
# QEMU emulates the processor, which is slow and works anywhere; RDMA_ACCELERATION=kvm is fast where
# it works.
set -euo pipefail

FOLDER=$1
COMMAND=$2
MODULES="virtio_pci 9pnet_virtio 9p overlay crc32_generic dummy ib_uverbs rdma_rxe"
ACCELERATION=${RDMA_ACCELERATION:-tcg,thread=multi}
TIMEOUT_S=${RDMA_TIMEOUT_S:-1500}

for tool in qemu-system-x86_64 busybox cpio depmod rdma dpkg-deb; do
  PATH=$PATH:/sbin command -v $tool > /dev/null || {
    echo "machine.sh: $tool is missing; the head of this file names the packages" >&2
    exit 1
  }
done

prepare() {
  # linux-image-amd64 depends on the present kernel. Its cloud flavour has no rdma_rxe.
  local image
  image=$(apt-cache depends linux-image-amd64 | awk '/Depends: linux-image-[0-9]/ {print $2; exit}')
  rm -rf kernel initrd initrd.gz
  apt-get download -q "$image"
  dpkg-deb -x "$image"_*.deb kernel
  rm "$image"_*.deb

  local version
  version=$(ls kernel/lib/modules)
  /sbin/depmod -b kernel "$version"
  mkdir -p initrd/{bin,proc,sys,dev,modules,host,memory,guest}
  cp "$(command -v busybox)" initrd/bin/busybox
  # In the order in which they must be loaded, each once.
  /sbin/modprobe -d kernel -S "$version" --show-depends -a $MODULES |
    awk '$1 == "insmod" && !seen[$2]++ {print $2}' > modules
  while read -r module; do cp "$module" initrd/modules/; done < modules
  sed 's:.*/::' modules > initrd/modules/order
  cat > initrd/init <<'INIT'
#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc && mount -t sysfs sysfs /sys && mount -t devtmpfs devtmpfs /dev
while read -r module; do insmod "/modules/$module"; done < /modules/order
share() { mount -t 9p -o "trans=virtio,version=9p2000.L,msize=1048576,$3" "$1" "$2"; }
share host /host ro,cache=loose
mount -t tmpfs -o size=80% memory /memory && mkdir /memory/upper /memory/work
mount -t overlay -o lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work overlay /guest
share out /guest/mnt cache=none
for folder in proc sys dev; do mount --move "/$folder" "/guest/$folder"; done
mkdir -p /guest/dev/shm /guest/dev/pts
mount -t tmpfs shm /guest/dev/shm && mount -t devpts pts /guest/dev/pts
mount -t tmpfs run /guest/run && ln -sf /proc/self/fd /guest/dev/fd
# Process 1 stays this shell, so that the end of the command is not the end of the kernel.
chroot /guest /bin/bash /mnt/command.sh
echo $? > /guest/mnt/code
poweroff -f
INIT
  chmod +x initrd/init
  cp kernel/boot/vmlinuz-* vmlinuz
  rm -r kernel
  (cd initrd && find . | cpio --quiet -o -H newc | gzip -1) > initrd.new
  rm -r initrd
  mv initrd.new initrd.gz
}

mkdir -p "$FOLDER/out"
cd "$FOLDER"
[[ -e initrd.gz ]] || prepare

rm -f out/code
cat > out/command.sh <<GUEST
set -euo pipefail
export HOME=/tmp LANG=C.UTF-8 PATH=$PATH:/usr/sbin:/sbin
ulimit -l unlimited
ip link set lo up
ip link add roce0 type dummy
ip link set roce0 address 02:00:00:00:77:01 mtu 4200 up
ip address add 10.77.0.1/24 dev roce0
rdma link add rxe0 type rxe netdev roce0
# The GID of an IPv4 address comes a moment later.
for _ in {1..100}; do
  ! grep -qs ffff:0a4d /sys/class/infiniband/rxe0/ports/1/gids/* || break
  sleep 0.1
done
$COMMAND
GUEST

timeout "$TIMEOUT_S" qemu-system-x86_64 \
  -M q35,usb=off -accel "$ACCELERATION" -cpu max -smp 2 -m 2048 \
  -nodefaults -no-user-config -nographic -serial stdio -no-reboot \
  -kernel vmlinuz -initrd initrd.gz \
  -append "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off random.trust_cpu=on" \
  -virtfs local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap \
  -virtfs local,path=out,mount_tag=out,security_model=none \
  < /dev/null || echo "machine.sh: QEMU ended with $?" >&2
[[ -e out/code ]] || { echo "machine.sh: the command did not end in $TIMEOUT_S s" >&2; exit 1; }
exit "$(< out/code)"
