#!/usr/bin/env bash
# Draft §6 as it stands: wilma on venus calls sips:fred@mars.example.com. Two unmodified phones,
# baresip, over TUN devices; SIP over TLS with the overlay's certificates, sound by SRTP, IPv6,
# and no proxy. What a phone has is its host's certificate, the authority's, and its host's DNS, which
# tells it IPv6 addresses alone. (This phone has no sips: in its dialling; it says the same by
# transport=tls.) It needs root, or 'unshare -Urnm' around it; what it makes ends
# with it.
#
#   unshare -Urnm examples/sipcall/sips.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

for p in ip baresip; do
	PATH=$PATH:/usr/sbin command -v "$p" >/dev/null || { echo "SKIPPED: $p is not installed"; exit 0; }
done
[ "$(id -u)" = 0 ] || { echo "SKIPPED: it needs root"; exit 0; }
# In a user namespace ip netns needs a place of its own.
[ -w /run ] && mkdir -p /run/netns 2>/dev/null || mount -t tmpfs none /run

work=$(mktemp -d)
tag=sips$$
pids=()
finish() {
	for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
	wait
	for host in earth venus mars; do
		ip netns del "$tag-$host" 2>/dev/null || true
		rm -rf "/etc/netns/$tag-$host"
	done
	ip link del "$tag" 2>/dev/null || true
	rm -rf "$work"
}
trap finish EXIT
fail() {
	echo "FAILED: $*" >&2
	tail -n 40 "$work"/*.said >&2 || true
	exit 1
}

# await waits until a host's program has said something.
await() {
	local host=$1 text=$2 deadline=$((SECONDS + 40))
	until grep -aq "$text" "$work/$host.said" 2>/dev/null; do
		[ $SECONDS -lt $deadline ] || fail "$host does not say: $text"
		read -rt 0.1 <> <(:) || true
	done
}

# on runs a program on a host, in the background, its output in $work/<as>.said.
on() {
	local host=$1 as=$2
	shift 2
	ip netns exec "$tag-$host" "$@" >"$work/$as.said" 2>&1 </dev/null &
	pids+=($!)
}

echo "== three hosts on one network, and an overlay"
go -C ../gateway build -o "$work/" .
ip link add "$tag" type bridge
ip link set "$tag" up
n=1
for host in earth venus mars; do
	ip netns add "$tag-$host"
	ip link add "$tag-$n" type veth peer name eth0 netns "$tag-$host"
	ip link set "$tag-$n" master "$tag" up
	ip -n "$tag-$host" addr add "10.77.0.$n/24" dev eth0
	ip -n "$tag-$host" link set eth0 up
	ip -n "$tag-$host" link set lo up
	n=$((n + 1))
done
quiet=(-page '' -socks '' -http '')
on earth earth "$work/gateway" create -dir "$work/earth" -name earth "${quiet[@]}" example.com
await earth ready
for host in venus mars; do
	token=$(ip netns exec "$tag-earth" "$work/gateway" invite -dir "$work/earth" "$host")
	on "$host" "$host" "$work/gateway" join -dir "$work/$host" -tun idloc0 -dns-no-ipv4 "${quiet[@]}" "$token"
	await "$host" ready
	"$work/gateway" certificate -dir "$work/$host" >"$work/$host.pem"
	mkdir -p "/etc/netns/$tag-$host"
	dns=$(ip -n "$tag-$host" -o addr show dev idloc0 | grep -o 'inet 198[0-9.]*\.53' | cut -d' ' -f2)
	echo "nameserver $dns" >"/etc/netns/$tag-$host/resolv.conf"
done
"$work/gateway" ca -dir "$work/venus" >"$work/ca.pem"

# phone starts baresip: its account, its sound, a command.
modules=$(dirname "$(find /usr/lib -name aufile.so -path '*baresip*' | head -n 1)")
phone() {
	local host=$1 user=$2 source=$3 conf=$work/phone-$1 lsi
	shift 3
	lsi=$(ip -n "$tag-$host" -o -6 addr show dev idloc0 scope global | grep -o '2001:[0-9a-f:]*' | head -n 1)
	mkdir "$conf"
	cat >"$conf/config" <<-END
		sip_listen [$lsi]:5060
		sip_certificate $work/$host.pem
		sip_cafile $work/ca.pem
		net_interface idloc0
		net_af ipv6
		audio_source $source
		audio_player aubridge,bridge
		audio_alert aubridge,alert
		module_path $modules
		module g711.so
		module aufile.so
		module aubridge.so
		module srtp.so
		module_app account.so
		module_app menu.so
		module_app rtcpsummary.so
	END
	echo "<sip:$user@$host.example.com;transport=tls>;regint=0;answermode=auto;mediaenc=srtp-mand;audio_codecs=PCMU;ptime=20" >"$conf/accounts"
	: >"$conf/contacts"
	on "$host" "phone-$host" baresip -6 -s -f "$conf" "$@"
}

# Twenty seconds of noise, 8 kHz, 16 bit, one channel.
{
	printf 'RIFF\x24\xe2\x04\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00\x40\x1f\x00\x00\x80\x3e\x00\x00\x02\x00\x10\x00data\x00\xe2\x04\x00'
	head -c 320000 /dev/urandom
} >"$work/noise.wav"
echo "== wilma's phone on venus calls sips:fred@mars.example.com"
phone mars fred aubridge,bridge -t 60
await phone-mars 'baresip is ready'
# This phone verifies nobody's certificate: openssl does, for the name that was dialled and for
# one that is not mars'.
shown() {
	ip netns exec "$tag-venus" openssl s_client -connect mars.example.com:5061 -CAfile "$work/ca.pem" -verify_return_error \
		-verify_hostname "$1" </dev/null >"$work/openssl.said" 2>&1
}
if command -v openssl >/dev/null; then
	shown mars.example.com || fail "fred's phone has no good certificate"
	grep -a 'subject=\|issuer=\|Verification' "$work/openssl.said"
	! shown venus.example.com || fail "fred's phone has venus' certificate"
fi
phone venus wilma "aufile,$work/noise.wav" -e '/dial sip:fred@mars.example.com' -t 10
await phone-venus 'Call established'
await phone-mars 'PR='
# The ladder, of the phone's own trace (-s).
grep -aE '^(TLS \[|INVITE |ACK |BYE |SIP/2.0 )' "$work/phone-venus.said" | paste -d ' ' - -
stats=$(grep -ao 'PS=[0-9]*;\|PR=[0-9]*;' "$work/phone-mars.said" | tr -d '\n')
echo "mars: packets received and sent: $stats"
[ "$(sed 's/.*PR=\([0-9]*\).*/\1/' <<<"$stats")" -gt 100 ] || fail "mars hears nothing"
rate=$(grep -ao 'audio=[0-9]*/[0-9]*' "$work/phone-venus.said" | tail -n 1)
echo "venus: bits a second, sent and received: $rate"
[ "${rate#*/}" -gt 30000 ] || fail "venus hears nothing"
grep -aq 'RTP/SAVP' "$work/phone-mars.said" || fail "the sound is not SRTP"
grep -aq 'TLS' "$work/phone-mars.said" || fail "SIP is not over TLS"
echo done
