#!/usr/bin/env bash
# Two hosts whose kernels are in the overlay example.com by a TUN device (the
# draft's Figure 1), and the programs of every day on them, unmodified: ping,
# dig, curl, ssh, SIPp. Earth and mars are network namespaces of this machine,
# joined by one wire. No root is needed:
#
#	unshare -Urnm ./tun.sh
#
# It prints what each program did and ends with 0 if all did what they should.
# Programs that are not installed are named and left out. GATEWAY is the gateway
# to run, else it is built; with 'sh' as argument you get a shell on earth.
set -euo pipefail
cd "$(dirname "$0")"

if ! ip link show lo >/dev/null 2>&1 || ! mount -t tmpfs none /run 2>/dev/null; then
	echo "run this as: unshare -Urnm $0 (with iproute2 installed)" >&2
	exit 2
fi
if ! : <>/dev/net/tun; then
	echo "without a TUN device that $(id -un) may open there is nothing to show" >&2
	exit 2
fi
work=$(mktemp -d)
pids=()
finish() {
	rc=$?
	trap - EXIT
	for p in "${pids[@]}"; do kill "$p" 2>/dev/null || true; done
	wait
	if [ $rc != 0 ]; then tail -n 20 "$work"/*.log >&2 || true; fi
	rm -rf "$work"
	exit $rc
}
trap finish EXIT
trap 'exit 130' INT TERM
if [ -z "${GATEWAY:-}" ]; then
	GATEWAY=$work/gateway
	go build -o "$GATEWAY" .
fi

# The wire. Everything else is the gateways' work.
for h in earth mars; do
	ip netns add $h
	ip -n $h link set lo up
done
ip link add eth0 netns earth type veth peer name eth0 netns mars
ip -n earth addr add 192.0.2.1/24 dev eth0 && ip -n earth link set eth0 up
ip -n mars addr add 192.0.2.2/24 dev eth0 && ip -n mars link set eth0 up
earth() { ip netns exec earth "$@"; }
mars() { ip netns exec mars "$@"; }

# up <host> <command> [flags]: start a gateway and wait until it is ready.
up() {
	local host=$1
	ip netns exec "$host" "$GATEWAY" "${@:2}" >"$work/$host.log" 2>&1 &
	pids+=($!)
	for _ in $(seq 1200); do
		grep -q ^ready "$work/$host.log" && return
		kill -0 "${pids[-1]}" 2>/dev/null || return 1
		sleep 0.1
	done
	return 1
}
flags=(-tun idloc0 -port 4000 -socks '' -http '' -page '')
up earth create -dir "$work/earth" -name earth "${flags[@]}" example.com
token=$("$GATEWAY" invite -dir "$work/earth" mars)
up mars join -dir "$work/mars" "${flags[@]}" "$token"
grep -h 'TUN device' "$work"/earth.log "$work"/mars.log

ip -n earth route add default via 192.0.2.2 # whatever else earth sends goes to mars

# Both hosts ask their own node, at the same address.
dns=198.18.0.53 own4=198.18.0.1
printf 'nameserver %s\noptions timeout:5\n' $dns >"$work/resolv.conf"
target=$(readlink -m /etc/resolv.conf) # may have been in the /run of the host
[ -e "$target" ] || { mkdir -p "$(dirname "$target")" && : >"$target"; }
mount --bind "$work/resolv.conf" /etc/resolv.conf

if [ "${1:-}" = sh ]; then
	echo "this is earth; try: ping mars.example.com"
	earth "${SHELL:-bash}" || true
	exit 0
fi

say() { printf '\n# %s\n' "$*"; }
# listening <tcp|udp> <port>: wait until somebody on mars does.
listening() {
	for _ in $(seq 1200); do
		mars ss -Hln "--$1" "sport = :$2" | grep -q . && return
		sleep 0.1
	done
	return 1
}
have() {
	for p in "$@"; do
		command -v "$p" >/dev/null || { printf '\n# %s: not installed, left out\n' "$p"; return 1; }
	done
}

if have dig; then
	say "dig: a name and back, from a program that knows only /etc/resolv.conf"
	lsi4=$(earth dig +short mars.example.com A)
	lsi6=$(earth dig +short mars.example.com AAAA)
	back=$(earth dig +short -x "$lsi4")
	echo "mars.example.com is $lsi4 and $lsi6 on earth; $lsi4 is $back"
	[ -n "$lsi6" ] && [ "$back" = mars.example.com. ]
	earth dig +tcp +short "@$dns" mars.example.com | grep -qx "$lsi4"
	earth dig nobody.example.com | grep -q 'status: NXDOMAIN'
fi

if have ping; then
	lsi4=${lsi4:-198.18.0.2}
	say "ping: both families, a large packet, and fragments of one"
	earth ping -W 10 -c 3 -i 0.2 "$lsi4" | tail -n 3
	earth ping -6 -W 10 -c 3 -i 0.2 mars.example.com | tail -n 2
	earth ping -c 1 -s 20000 mars.example.com >/dev/null
	ip -n earth link set idloc0 mtu 1300
	earth ping -4 -c 1 -s 5000 mars.example.com >/dev/null
	earth ping -6 -c 1 -s 5000 mars.example.com >/dev/null
	ip -n earth link set idloc0 mtu 65535
	say "ping: an address that is nobody's is answered at once"
	{ earth ping -c 1 -W 30 198.18.99.99 || true; } | grep -i unreachable
fi

if have curl python3; then
	say "curl: 20 MB from a web server on mars"
	mkdir "$work/www"
	head -c 20000000 /dev/urandom >"$work/www/data"
	(cd "$work/www" && exec ip netns exec mars python3 -m http.server --bind :: 80) >"$work/http.log" 2>&1 &
	pids+=($!)
	listening tcp 80
	earth curl -sS -o "$work/got" \
		-w '%{http_code} from %{remote_ip}, %{size_download} bytes, %{speed_download} bytes/s\n' http://mars.example.com/data
	cmp "$work/got" "$work/www/data"
	say "curl: a port on which nobody listens"
	if earth curl -sS --max-time 60 http://mars.example.com:81/; then exit 1; fi
fi

if have curl; then
	say "curl: from an address of earth that is not in the overlay"
	if earth curl -sS --max-time 60 --interface 192.0.2.1 "http://${lsi4:-198.18.0.2}/" 2>&1; then exit 1; fi
fi

if have ssh ssh-keygen /usr/sbin/sshd; then
	say "ssh: a command on mars"
	mkdir -p /run/sshd "$work/ssh"
	ssh-keygen -q -t ed25519 -N '' -f "$work/ssh/host"
	ssh-keygen -q -t ed25519 -N '' -f "$work/ssh/id"
	# sshd runs as fred, in a user namespace of his: the root of this one may
	# not become other users, and sshd as root would want to.
	grep -v '^fred:' /etc/passwd >"$work/passwd"
	echo "fred:x:1000:1000::$work:/bin/sh" >>"$work/passwd"
	mount --bind "$work/passwd" /etc/passwd
	mars sh -c 'echo 0 >/proc/sys/net/ipv4/ip_unprivileged_port_start'
	ip netns exec mars unshare -U --map-user=1000 --map-group=1000 /usr/sbin/sshd -D -f /dev/null -h "$work/ssh/host" -E "$work/sshd.log" -o Port=22 \
		-o PidFile=none -o AuthorizedKeysFile="$work/ssh/id.pub" -o StrictModes=no -o UsePAM=no >"$work/sshd.out.log" 2>&1 &
	sshd=$!
	pids+=($sshd)
	listening tcp 22
	earth ssh -F /dev/null -i "$work/ssh/id" -o BatchMode=yes -o StrictHostKeyChecking=no -o LogLevel=ERROR \
		-o UserKnownHostsFile="$work/ssh/known" fred@mars.example.com 'echo "hello from fred on mars; this came by $SSH_CONNECTION"'
	kill $sshd
fi

if have sipp; then
	for family in 4 6; do
		say "SIPp: 50 calls from earth to a user agent on mars, over UDP with IPv$family LSIs"
		# A phone writes its address into messages. An IPv4 LSI means something
		# on its own host only (draft §9.1), SIP's received and rport make up
		# for that; the IPv6 LSI of a peer is the same everywhere.
		if [ $family = 4 ]; then
			from=$own4 at=$own4 to=${lsi4:-198.18.0.2}
		else
			from=$(ip -n earth -6 -o addr show dev idloc0 | awk '{print $4}' | cut -d/ -f1)
			at=$(ip -n mars -6 -o addr show dev idloc0 | awk '{print $4}' | cut -d/ -f1)
			to=mars.example.com
		fi
		(cd "$work" && exec ip netns exec mars sipp -sn uas -i "$at" -p 5060 -m 50 -rtp_echo -nostdin) >"$work/uas$family.log" 2>&1 &
		uas=$!
		pids+=($uas)
		listening udp 5060
		(cd "$work" && earth sipp -sn uac -i "$from" -m 50 -r 50 -timeout 120 -nostdin "$to:5060") >"$work/uac$family.log" 2>&1
		grep -E 'Successful call|Failed call' "$work/uac$family.log" | tail -n 2 | tr -s ' '
		wait $uas
	done
fi

say "what the device did not take on earth"
"$GATEWAY" status -dir "$work/earth" -json | tr -d ' \n' | grep -o '"drops":{[^}]*}' || echo none

# tcp <address>: connect to a port at which nobody listens and print why not.
tcp() { (earth timeout 60 bash -c ": </dev/tcp/$1/9" 2>&1 || true) | grep -o 'connect: .*\|Connection .*\|No route .*' | tail -n 1; }
# refused <address>: wait until mars refuses the connection: it is reached.
refused() {
	for _ in $(seq 1200); do
		tcp "$1" | grep refused && return
		sleep 0.1
	done
	return 1
}
say "a crash: members are unreachable, and nobody else is asked"
refused 198.18.0.2
kill -9 "${pids[0]}"
wait "${pids[0]}" 2>/dev/null || true
tcp 198.18.0.2
tcp 2001:20::2
up earth run -dir "$work/earth" "${flags[@]}"
refused 198.18.0.2
say "an orderly end: the host is as it was"
kill "${pids[-1]}"
wait "${pids[-1]}"
ip -n earth route show proto 198
ip -n earth -6 route show proto 198
ip -n earth route get 198.18.0.2 | grep -o 'via .* dev eth0'
say "a host that has such addresses itself"
ip -n earth addr add 198.18.9.9/24 dev eth0
if earth timeout 30 "$GATEWAY" run -dir "$work/earth" "${flags[@]}" 2>&1; then exit 1; fi
up earth run -dir "$work/earth" -lsi-prefix 198.19.0.0/16 "${flags[@]}"
refused 198.19.0.2
echo "all done"
