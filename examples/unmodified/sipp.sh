# SIPp calls SIPp: 50 calls of its own scenarios over UDP, 50 over TCP, each
# through the gateways' forwards both ways. Sourced by run.sh.
if need sipp sip-tester; then
	for transport in "udp u1 $sip_udp" "tcp t1 $sip_tcp"; do
		read -r network mode uas <<<"$transport"
		(cd "$work" && exec sipp -sn uas -t "$mode" -i 127.0.0.1 -p "$uas" -nostdin >/dev/null 2>&1) &
		pids+=($!)
		# Over UDP the caller asks again until somebody answers.
		[ "$network" = udp ] || while ! listens "$uas"; do kill -0 $! || fail "SIPp does not listen"; done
		at=$(sed -n "s/^$network at \([^ ]*\) goes to.*/\1/p" "$work/earth.said")
		call=(sipp -sn uac -t "$mode" -i 127.0.0.1 "$at" -s fred -m 50 -r 50 -d 200 -timeout 60 -nostdin)
		(cd "$work" && step "${call[@]}" >"$work/sipp.$network" 2>&1) || { tail -40 "$work/sipp.$network"; fail "SIPp over $network"; }
		grep -m1 '^\$' "$work/sipp.$network"
		grep -aE '(Successful|Failed) call' "$work/sipp.$network" | tail -2 | sed 's/ *|.*| */: /; s/ *$//'
	done
fi
