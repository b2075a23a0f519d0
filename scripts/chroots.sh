# shellcheck shell=bash
# Minimal installations of Debian in chroots, for scripts/fresh-test and scripts/package.
# It is sourced, not run.
#
# The chroot is in a temporary folder, and is removed at the end. Its mounts and processes
# are in their own namespaces, and always end with the script. The chroot gets the settings
# that this machine needs to reach its Debian mirror and its package index.
#
# The script sets `cache`, a folder for downloaded packages. In the namespaces it sets `work`, `tree`
# and `release`, and the array `environment`.
# shellcheck disable=SC2154 # these are set by the script

child=''

say() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
}

fail() {
    say "$*"
    exit 1
}

# Prints a command's output only if it fails.
quietly() {
    "$@" >"$work/log" 2>&1 </dev/null || {
        tail -n 40 "$work/log" >&2
        return 1
    }
}

# Runs a command up to three times, because a network may fail for a moment.
repeatedly() {
    local attempt
    for attempt in 1 2; do
        "$@" && return
        say "failed, and is run again: $*"
        sleep "$((5 * attempt))"
    done
    "$@"
}

# Prints the sites of this machine's apt sources that have Debian's packages; the
# argument is the label of the archive.
apt_sites() {
    # shellcheck disable=SC2016 # apt-get's own variables
    apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' "Label: $1" 2>/dev/null |
        awk '!seen[$0]++'
}

# The following functions run in the first process of new namespaces: its children
# and mounts end with it.

take_along() {
    local path
    for path; do
        [[ -e $path ]] || continue
        if [[ -d $path ]]; then
            mkdir -p "$tree$path"
            mount --bind -o ro "$path" "$tree$path"
        else
            mkdir -p "$tree${path%/*}"
            cp "$path" "$tree$path"
        fi
    done
}

# Removes the remains of a failed attempt, over which debootstrap would stumble.
run_debootstrap() {
    rm -rf --one-file-system "$tree"
    quietly debootstrap --variant=minbase --cache-dir="$cache/apt-$release" "$release" "$tree" "$@"
}

make_tree() {
    local release=$1 mirror security
    mirror=$(apt_sites Debian | head -n 1)
    security=$(apt_sites Debian-Security | head -n 1)
    mkdir -p "$cache/apt-$release" "$cache/pip"
    say "making a minimal installation of $release"
    repeatedly run_debootstrap ${mirror:+"$mirror"} || fail "debootstrap failed"
    if [[ -n $mirror ]]; then
        echo "deb $mirror $release-updates main" >>"$tree/etc/apt/sources.list"
    fi
    if [[ -n $security ]]; then
        echo "deb $security $release-security main" >>"$tree/etc/apt/sources.list"
    fi
}

# Prints the files and folders in the given lines, which are paths or file: URLs.
# The pages of an index in a folder (simple) link to files next to that folder.
named_paths() {
    sed -E 's,file://,,g; s,[A-Za-z+]+://[^[:space:]]*,,g; s,/simple/?($|[[:space:]]),\1,g' | grep -oE '/[^[:space:]]+' | sort -u || true
}

# For apt; debootstrap has copied resolv.conf.
configure_apt() {
    apt-config dump | grep -iE '^Acquire::(https?|ftp|Retries|ForceIPv[46])' \
        >"$tree/etc/apt/apt.conf.d/90host" || true
}

configure_network() {
    local certificates=${PIP_CERT:-${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}}
    local -a configuration=(/etc/xdg/pip/pip.conf /etc/pip.conf "${PIP_CONFIG_FILE:-/etc/pip.conf}") paths
    local file variable

    configure_apt
    take_along "${configuration[@]}"
    for file in .pip .config/pip; do
        if [[ -r $HOME/$file/pip.conf ]]; then
            mkdir -p "$tree/root/$file"
            cp "$HOME/$file/pip.conf" "$tree/root/$file/"
            configuration+=("$HOME/$file/pip.conf")
        fi
    done

    for variable in "${!PIP_@}" {http,https,ftp,all,no}_proxy {HTTP,HTTPS,FTP,ALL,NO}_PROXY; do
        [[ ! -v $variable || $variable == PIP_CACHE_DIR ]] || environment+=("$variable=${!variable}")
    done
    mapfile -t paths < <({
        cat "${configuration[@]}" 2>/dev/null || true
        printf '%s\n' "${environment[@]}"
    } | named_paths)
    take_along "${paths[@]}"

    # Not under the usual name: the package ca-certificates writes that file.
    if [[ -r $certificates ]]; then
        cp "$certificates" "$tree/etc/certificates-of-the-host.crt"
        environment+=({PIP_CERT,SSL_CERT_FILE}"=/etc/certificates-of-the-host.crt")
    fi
    environment+=(PIP_CACHE_DIR=/var/cache/pip)
}

mount_all() {
    mount -t proc proc "$tree/proc"
    mount --rbind /sys "$tree/sys"
    mount --rbind /dev "$tree/dev"
    mkdir -p "$tree/var/cache/pip"
    mount --bind "$cache/apt-$release" "$tree/var/cache/apt/archives"
    mount --bind "$cache/pip" "$tree/var/cache/pip"
}

# The following functions run in the script's first process.

# A killed process may take a moment to end.
remove_work() {
    rm -rf --one-file-system "$work" 2>/dev/null || { sleep 1 && rm -rf --one-file-system "$work"; }
}

clean_up() {
    local status=$?
    trap - EXIT
    # The first process of the namespaces dies with unshare, and everything in them with it.
    if [[ -n $child ]]; then
        kill -KILL "$child" 2>/dev/null || true
        wait "$child" 2>/dev/null || true
    fi
    [[ -z $work ]] || remove_work
    exit "$status"
}

remove_at_exit() {
    work=''
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
}

# Runs the script with --inside, the temporary folder and the other arguments, in the first
# process of new namespaces.
in_namespaces() {
    local script=$1 status=0
    shift
    work=$(mktemp -d "${TMPDIR:-/tmp}/pykcm-chroot.XXXXXX")
    chmod 0755 "$work"
    # What needs this machine's network or tools comes first. It sets `needless` if that is all.
    local needless=''
    if declare -F before_namespaces >/dev/null; then
        before_namespaces "$@"
    fi
    if [[ -n $needless ]]; then
        remove_work
        work=''
        return
    fi
    unshare --mount --pid --fork --kill-child -- "$script" --inside "$work" "$@" &
    child=$!
    wait "$child" || status=$?
    child=''
    remove_work
    work=''
    return "$status"
}

install_debootstrap() {
    command -v debootstrap >/dev/null && return
    say "installing debootstrap"
    { repeatedly apt-get -qq update && repeatedly apt-get -qq install --yes --no-install-recommends debootstrap; } >/dev/null ||
        fail "debootstrap is missing, and cannot be installed: apt-get install debootstrap"
}
