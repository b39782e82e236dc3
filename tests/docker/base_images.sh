#!/usr/bin/env bash
# Base images for a machine that reaches no registry, of Debian's packages and the installed Rust. Needs debootstrap and root.
#
#   tests/docker/base_images.sh
#   docker build -f deploy/Dockerfile --build-arg BUILD_IMAGE=finemesh-build --build-arg RUNTIME_IMAGE=finemesh-runtime .
set -euo pipefail
cd "$(dirname "$0")" # Rust as rust-toolchain.toml has it

suite=bookworm
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
# Those of gcr.io/distroless/cc-debian12.
runtime_packages=(base-files libc6 libgcc-s1 libgomp1 libssl3 libstdc++6 media-types netbase tzdata)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
build=$work/build runtime=$work/runtime

debootstrap --variant=minbase --include=ca-certificates "$suite" "$build" "$mirror"
# Authorities that this machine trusts.
find /usr/local/share/ca-certificates -name '*.crt' -exec cp {} "$build/usr/local/share/ca-certificates/" \;
chroot "$build" update-ca-certificates
cp -a "$(rustc --print sysroot)"/{bin,lib} "$build/usr/local/"

mkdir -p "$build/debs" "$runtime/etc/ssl/certs" "$runtime/home/nonroot" "$runtime/tmp"
chroot "$build" sh -c 'cd /debs && apt-get download -o APT::Sandbox::User=root "$@"' - "${runtime_packages[@]}"
for package in "$build"/debs/*.deb; do
  dpkg-deb -x "$package" "$runtime"
done
rm -rf "$build/debs" "$build"/var/cache/apt/* "$build"/var/lib/apt/lists/* "$runtime"/usr/share/{doc,man,locale}
cp "$build/etc/ssl/certs/ca-certificates.crt" "$runtime/etc/ssl/certs/"
echo 'hosts: files dns' > "$runtime/etc/nsswitch.conf"
printf '%s\n' root:x:0:0:root:/root:/sbin/nologin nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin > "$runtime/etc/passwd"
printf '%s\n' root:x:0: nonroot:x:65532: > "$runtime/etc/group"
chown 65532:65532 "$runtime/home/nonroot"
chmod 1777 "$runtime/tmp"

tar -C "$build" -c . | docker import -c 'ENV CARGO_HOME=/usr/local PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' - finemesh-build
tar -C "$runtime" -c . | docker import -c 'ENV PATH=/usr/local/bin:/usr/bin:/bin' -c 'USER 65532' - finemesh-runtime
