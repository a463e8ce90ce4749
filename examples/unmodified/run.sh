#!/usr/bin/env bash
# Drives programs that know nothing of idloc through an overlay, and prints
# each command and what came of it:
#
#   examples/unmodified/run.sh              # all of them
#   examples/unmodified/run.sh curl sipp    # some
#
# The overlay is on this machine, on loopback, and ends with the script: earth
# and mars are gateways (examples/gateway), venus shares a folder
# (examples/files). No root. A program that is not installed is skipped, and
# said so; the exit code is 0 only if everything else went well.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

case "${1:-}" in -h | -help | --help)
	sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' run.sh
	exit
	;;
esac
parts=("$@")
[ $# -gt 0 ] || parts=(curl ssh dig sipp)
for part in "${parts[@]}"; do
	case $part in
	curl | ssh | dig | sipp) ;;
	*) echo "no part $part: choose of curl, ssh, dig, sipp" >&2; exit 2 ;;
	esac
done

work=$(mktemp -d)
pids=()
finish() {
	for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
	wait
	rm -rf "$work"
}
trap finish EXIT

# step prints a command and runs it.
step() {
	printf '$'
	for word in "$@"; do # as the shell would want it
		case $word in *[\ \'\"\$]* | '') printf " '%s'" "$word" ;; *) printf ' %s' "$word" ;; esac
	done
	printf '\n'
	"$@"
}

fail() {
	echo "FAILED: $*" >&2
	exit 1
}

# expect wants a text in what a command prints.
expect() {
	local text=$1 out
	shift
	out=$(step "$@" 2>&1) || { echo "$out"; fail "$1 ended with an error"; }
	echo "$out"
	[[ $out == *"$text"* ]] || fail "$1 did not print $text"
}

# need skips a part whose program is not there.
need() {
	PATH=$PATH:/usr/sbin command -v "$1" >/dev/null && return
	echo "SKIPPED: $1 is not installed (Debian's package: $2)"
	return 1
}

# listens says whether something listens on a port of this machine.
listens() { (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# port is one that nothing listens on now.
port() {
	local p
	while p=$((20000 + RANDOM % 12000)) && listens "$p"; do :; done
	echo "$p"
}

# start runs a node in the background until it says that it is ready, and
# keeps what it printed in $work/<name>.said.
start() {
	local name=$1 ready=$2 line fd
	shift 2
	exec {fd}< <(exec "$@" 2>&1)
	pids+=($!)
	while IFS= read -r -u "$fd" line; do
		echo "  $name: ${line:0:140}"
		echo "$line" >>"$work/$name.said"
		[[ $line == $ready* ]] && return
	done
	fail "$name has ended"
}

# said finds the address after some words in what a node printed.
said() { sed -n "s/^$2.* at \([^ ]*:[0-9]*\).*/\1/p" "$work/$1.said" | sed -n "${3:-1}p"; }

echo "== an overlay: earth founds it, venus and mars join"
go build -o "$work/" ../files
go -C ../gateway build -o "$work/" .
sshd=$(port) sip_udp=$(port) sip_tcp=$(port)
gateway() { "$work/gateway" "$@"; }
node=(-addr 127.0.0.1 -page '')
off=(-socks '' -http '')
start earth ready "$work/gateway" create -dir "$work/earth" -name earth "${node[@]}" -socks 127.0.0.1:0 -http 127.0.0.1:0 -dns 127.0.0.1:0 \
	-L udp:0:mars:5060 -L 0:mars:5060 example.com
start mars ready "$work/gateway" join -dir "$work/mars" "${node[@]}" "${off[@]}" \
	-R "22:127.0.0.1:$sshd" -R "udp:5060:127.0.0.1:$sip_udp" -R "5060:127.0.0.1:$sip_tcp" "$(gateway invite -dir "$work/earth" mars)"
mkdir "$work/shared"
echo 'red' >"$work/shared/planet.txt"
head -c 20000000 /dev/urandom >"$work/shared/big"
start venus "$work/shared is at" "$work/files" -addr 127.0.0.1 -join "$(gateway invite -dir "$work/earth" venus)" -share "$work/shared"

for part in "${parts[@]}"; do
	echo
	echo "== $part"
	# shellcheck source=/dev/null
	. "./$part.sh"
done
echo
echo "done"
