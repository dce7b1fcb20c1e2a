#!/usr/bin/env bash
# Do what a newcomer does, on a Debian that has nothing: install the packages that docs/install.md
# names, clone, `make demo`. Root is needed, and `apt-get install debootstrap`; beside FOLDER nothing
# of this machine is changed.
#
#   tests/fresh/bare_debian.sh trixie                 # make demo
#   tests/fresh/bare_debian.sh bookworm demo test     # make demo, then make test
#   WHEELS=~/.cache/pvt_mm/wheels/... tests/fresh/bare_debian.sh trixie
#   FORCE_CUDA=1 TORCH_CUDA_ARCH_LIST="8.0;9.0" tests/fresh/bare_debian.sh trixie setup
#
# FOLDER  where the systems are made, each once (default: /var/tmp/pvt_mm-fresh); 12 GB each
# MIRROR  Debian's mirror (default: the one of this machine's apt)
# WHEELS  a folder of wheels that pip there finds too, such as that of an mmcv built before
set -euo pipefail

if [ $# -eq 0 ]; then
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
    exit 2
fi
suite=$1
shift
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
folder=${FOLDER:-/var/tmp/pvt_mm-fresh}
root=$folder/$suite
home=/home/newcomer

die() {
    echo "error: $1" >&2
    exit 2
}

[ "$(id -u)" = 0 ] || die "chroot needs root: run it by sudo, or in a container"
command -v debootstrap >/dev/null || die "no debootstrap: apt-get install debootstrap"
[ -z "${WHEELS:-}" ] || [ -d "$WHEELS" ] || die "WHEELS=$WHEELS is no folder"

# The mounts below live in a namespace of their own and end with this script.
if [ -z "${IN_NAMESPACE:-}" ]; then
    IN_NAMESPACE=1 exec unshare --mount --propagation private "$0" "$suite" "$@"
fi

if [ -z "${MIRROR:-}" ]; then
    MIRROR=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' \
        2>/dev/null | head -1)
fi
if [ ! -e "$root/etc/os-release" ]; then
    rm -rf "$root.part"
    mkdir -p "$folder"
    # A debootstrap older than the suite has no script of its name; all new ones are the same.
    script=/usr/share/debootstrap/scripts/$suite
    [ -e "$script" ] || script=/usr/share/debootstrap/scripts/sid
    debootstrap --variant=minbase "$suite" "$root.part" ${MIRROR:+"$MIRROR" "$script"} \
        >"$folder/$suite.log" ||
        die "debootstrap failed, see $folder/$suite.log"
    mv "$root.part" "$root"
fi

# How this machine reaches its packages. Each is copied only where it is there.
for file in /etc/resolv.conf /etc/hosts /etc/pip.conf; do
    [ ! -f "$file" ] || cp "$file" "$root$file"
done
grep -hs '^Acquire::.*;$' /etc/apt/apt.conf /etc/apt/apt.conf.d/* >"$root/etc/apt/apt.conf.d/90host" || true
passed=()
for name in $(compgen -e); do
    case $name in
        PIP_* | *_proxy | *_PROXY | SSL_CERT_FILE) passed+=("$name=${!name}") ;;
        FORCE_CUDA | TORCH_CUDA_ARCH_LIST | MAX_JOBS) passed+=("$name=${!name}") ;;
    esac
done
[ -z "${WHEELS:-}" ] || passed+=("PIP_FIND_LINKS=${PIP_FIND_LINKS:+$PIP_FIND_LINKS }/wheels")

mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
show() {
    mkdir -p "$root$2"
    mount --bind "$1" "$root$2"
    mount -o remount,bind,ro "$root$2"
}
[ -z "${WHEELS:-}" ] || show "$WHEELS" /wheels
# Folders of this machine that pip's settings name, such as a local index.
for place in $( (cat /etc/pip.conf ~/.config/pip/pip.conf ~/.pip/pip.conf || true) 2>/dev/null |
    tr ' =' '\n\n' | sed -n 's#^\(file://\)\{0,1\}\(/.*\)#\2#p' | sort -u); do
    place=${place%/simple} # an index links to the files beside it
    [ ! -d "$place" ] || show "$place" "$place"
done

inside() {
    env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 TERM=dumb "${passed[@]}" "$@"
}
packages=$(tr '\n' ' ' <"$project/docs/install.md" | sed -n 's/.*`sudo apt-get install \([^`]*\)`.*/\1/p')
[ -n "$packages" ] || die "docs/install.md names no packages by \`sudo apt-get install ...\`"
echo "[fresh] $suite: apt-get install $packages"
inside chroot "$root" apt-get -qq update
# shellcheck disable=SC2086 # a list
inside DEBIAN_FRONTEND=noninteractive chroot "$root" \
    apt-get -qq install --no-install-recommends $packages >"$folder/$suite-apt.log"
if [ -s /etc/ssl/certs/ca-certificates.crt ]; then
    mkdir -p "$root/etc/ssl/certs"
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
fi
inside chroot "$root" sh -c "id newcomer >/dev/null 2>&1 || useradd --create-home newcomer"
if [ -f ~/.config/pip/pip.conf ]; then
    mkdir -p "$root$home/.config/pip"
    cp ~/.config/pip/pip.conf "$root$home/.config/pip/"
fi

rm -rf "${root:?}$home/pvt_mm"
git clone --quiet --no-hardlinks "$project" "$root$home/pvt_mm"
inside chroot "$root" chown -R newcomer: "$home"
. "$root/etc/os-release"
for target in "${@:-demo}"; do
    echo "[fresh] $PRETTY_NAME, $(inside chroot "$root" python3 --version): make $target"
    inside HOME=$home chroot --userspec=newcomer "$root" sh -c "cd $home/pvt_mm && make $target"
    echo "[fresh] make $target took $((SECONDS / 60)) minutes since the start"
done
echo "[fresh] done; all of it lies in $root$home/pvt_mm"
