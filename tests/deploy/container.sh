#!/bin/sh
# What a container sees of the file system, without an image: a root that is read-only but for /tmp, /dev/shm, the home
# /mnt/home and what is named. Usage, as root: unshare --mount --pid --fork container.sh 'ro:FOLDER rw:FOLDER ...' COMMAND...
set -eu
binds=$1
shift
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /mnt
# A folder such as /root or /tmp/x hides what lies in it from other users, and /tmp becomes another: keep hold of all
# first, then let an empty folder take the place of each top, then put them back.
index=0
tops=/tmp
for bind in $binds; do
    folder=${bind#*:}
    index=$((index + 1))
    mkdir "/mnt/$index"
    mount --bind "$folder" "/mnt/$index"
    top=/$(echo "$folder" | cut -d / -f 2)
    case " $tops /usr /opt " in *" $top "*) ;; *) tops="$tops $top" ;; esac
done
for top in $tops; do mount -t tmpfs -o mode=755 tmpfs "$top"; done
chmod 1777 /tmp
index=0
for bind in $binds; do
    folder=${bind#*:}
    index=$((index + 1))
    mkdir -p "$folder"
    mount --bind "/mnt/$index" "$folder"
    case $bind in ro:*) mount -o remount,ro,bind "$folder" ;; esac
done
mount -t proc proc /proc
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mkdir /mnt/home
mount -t tmpfs -o uid=10001,gid=10001,mode=700 tmpfs /mnt/home
mount -o remount,ro,bind /
exec "$@"
