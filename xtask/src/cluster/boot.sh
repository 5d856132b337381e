# The first process of a machine of the cluster: it has a process namespace and a mount namespace of its own, so when it
# is killed, every process and every mount of that machine goes with it, containers too.
# $1 is the file that tells who it is, $2 the machine's directory (empty for one that holds no pods).
set -e
# The outer /proc is still mounted: the process number by which others know this one, and when it was started.
read -r stat </proc/self/stat
read -r boot </proc/sys/kernel/random/boot_id
printf '%s\n%s\n' "$stat" "$boot" >"$1.new"
mv "$1.new" "$1"
mount -t proc proc /proc
# From here on what is mounted stays in here, yet containers see it.
mount --make-rshared /
mount -t tmpfs -o mode=755 podtap /run
if [ -n "$2" ]; then
    mkdir -p "$2/lib" "$2/log" /run/netns /run/containerd
    mount --bind "$2/lib" /var/lib
    mount --bind "$2/log" /var/log
    mkdir -p /var/lib/kubelet/manifests /var/lib/podtap /var/lib/cni/results
fi
: >/run/booted
trap '' HUP INT TERM
# Waiting for one child buries all of them, also those that were left by others.
while :; do
    sleep 86400 &
    wait $! || :
done
