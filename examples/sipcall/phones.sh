#!/usr/bin/env bash
# Two unmodified phones that speak IPv4 call each other by sip:fred@example.com over TUN
# devices, and hear each other: baresip on venus and on mars, each with its node (sipnode)
# as outbound proxy and DNS server. SIPp, on venus, reads the 302. Needs root, for network
# namespaces; what it makes ends with it.
#
#   examples/sipcall/phones.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

for p in ip baresip sipp; do
	PATH=$PATH:/usr/sbin command -v "$p" >/dev/null || { echo "SKIPPED: $p is not installed"; exit 0; }
done
[ "$(id -u)" = 0 ] || { echo "SKIPPED: it needs root"; exit 0; }

work=$(mktemp -d)
tag=sip$$
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

echo "== three hosts on one network"
go build -o "$work/" ./sipnode
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

echo "== an overlay: earth founds it; venus may say wilma, and mars fred"
on earth earth "$work/gateway" create -dir "$work/earth" -name earth -page '' -socks '' -http '' example.com
await earth ready
for pair in venus:wilma mars:fred; do
	host=${pair%:*}
	token=$(ip netns exec "$tag-earth" "$work/gateway" invite -dir "$work/earth" -tag "user-${pair#*:}" "$host")
	on "$host" "$host" "$work/sipnode" -v -dir "$work/$host" "$token"
	await "$host" 'the outbound proxy is'
	grep -a 'the outbound proxy is' "$work/$host.said"
	mkdir -p "/etc/netns/$tag-$host"
	sed -n 's/.*DNS is at \([0-9.]*\).*/nameserver \1/p' "$work/$host.said" >"/etc/netns/$tag-$host/resolv.conf"
done

# phone starts baresip: its account, its sound, a command.
modules=$(dirname "$(find /usr/lib -name aufile.so -path '*baresip*' | head -n 1)")
phone() {
	local host=$1 user=$2 source=$3 conf=$work/phone-$1
	shift 3
	mkdir "$conf"
	cat >"$conf/config" <<-END
		sip_listen 198.18.0.1:5070
		net_interface idloc0
		audio_source $source
		audio_player aubridge,bridge
		audio_alert aubridge,alert
		module_path $modules
		module g711.so
		module aufile.so
		module aubridge.so
		module_app account.so
		module_app menu.so
		module_app rtcpsummary.so
	END
	echo "<sip:$user@example.com>;outbound=\"sip:198.18.0.1;transport=udp\";regint=600;answermode=auto;audio_codecs=PCMU;ptime=20" >"$conf/accounts"
	: >"$conf/contacts"
	on "$host" "phone-$host" baresip -4 -f "$conf" "$@"
}

echo "== fred's phone on mars registers"
phone mars fred aubridge,bridge -t 60 # it says what it hears
await mars 'SIP/2.0 200 OK'

echo "== who is fred? (SIPp's own INVITE)"
cat >"$work/who.xml" <<'END'
<?xml version="1.0"?>
<scenario name="who">
<send><![CDATA[
INVITE sip:fred@example.com SIP/2.0
Via: SIP/2.0/UDP [local_ip]:[local_port];branch=[branch]
From: <sip:wilma@example.com>;tag=[call_number]
To: <sip:fred@example.com>
Call-ID: [call_id]
CSeq: 1 INVITE
Contact: <sip:wilma@[local_ip]:[local_port]>
Max-Forwards: 70
Content-Length: 0

]]></send>
<recv response="100" optional="true"/>
<recv response="302"><action><ereg regexp="sip:fred@mars\.example\.com" search_in="hdr" header="Contact:" check_it="true" assign_to="at"/><log message="fred is at [$at]"/></action></recv>
<send><![CDATA[
ACK sip:fred@example.com SIP/2.0
[last_Via:]
[last_From:]
[last_To:]
Call-ID: [call_id]
CSeq: 1 ACK
Max-Forwards: 70
Content-Length: 0

]]></send>
</scenario>
END
ip netns exec "$tag-venus" sh -c "cd '$work' && exec sipp -sf who.xml -m 10 -r 5 -i 198.18.0.1 -p 5090 198.18.0.1:5060 -timeout 30 -nostdin -trace_logs -log_file who.log" >"$work/who.said" 2>&1 || fail "SIPp"
sort "$work/who.log" | uniq -c

# Twenty seconds of noise, 8 kHz, 16 bit, one channel.
{
	printf 'RIFF\x24\xe2\x04\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00\x40\x1f\x00\x00\x80\x3e\x00\x00\x02\x00\x10\x00data\x00\xe2\x04\x00'
	head -c 320000 /dev/urandom
} >"$work/noise.wav"
echo "== wilma's phone on venus calls him where he is, and both hear the other"
phone venus wilma "aufile,$work/noise.wav" -e '/dial sip:fred@mars.example.com' -t 10
await phone-venus 'Call established'
grep -a 'INVITE\|SIP/2.0 [12]' "$work/venus.said" "$work/mars.said" | sed "s,$work/,,; s,\.said,,; /:5090:/d" || true
# The one that was called counts packets; the other, which ends it, says bits a second.
await phone-mars 'PR='
stats=$(grep -ao 'PS=[0-9]*;\|PR=[0-9]*;' "$work/phone-mars.said" | tr -d '\n')
echo "mars: packets received and sent: $stats"
[ "$(sed 's/.*PR=\([0-9]*\).*/\1/' <<<"$stats")" -gt 100 ] || fail "mars hears nothing"
rate=$(grep -ao 'audio=[0-9]*/[0-9]*' "$work/phone-venus.said" | tail -n 1)
echo "venus: bits a second, sent and received: $rate"
[ "${rate#*/}" -gt 30000 ] || fail "venus hears nothing"
echo "done"
