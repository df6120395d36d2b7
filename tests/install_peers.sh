#!/bin/sh
# Installs what the peers' tests need, where this may be done: Debian's packages, as root.
# Elsewhere it says what is missing; pytest then leaves those tests out and says so.

packages=""
have() {
    command -v "$1" >/dev/null 2>&1 && return
    for place in /usr/sbin /usr/lib/postgresql/*/bin /usr/share/orthanc/plugins; do
        [ -e "$place/$1" ] && return
    done
    return 1
}
need() { have "$1" || packages="$packages $2"; }
need dcmdump dcmtk # not storescu: pynetdicom brings one too
need Orthanc orthanc
need libOrthancDicomWeb.so orthanc-dicomweb
need dciodvfy dicom3tools
need chromium chromium
need node nodejs
need npm npm
need postgres postgresql
[ -n "$packages" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing$packages"
    export DEBIAN_FRONTEND=noninteractive
    if apt-get update -qq && apt-get install -y -qq --no-install-recommends $packages >/dev/null; then
        # Debian starts Orthanc as a service on its usual ports; the tests start one of their own
        service orthanc stop >/dev/null 2>&1
        exit 0
    fi
fi
echo "Not installed:$packages. Tests that need them are left out (as root, on Debian: apt install$packages)."
exit 0
