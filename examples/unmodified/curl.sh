# curl, told of a proxy and nothing else. Sourced by run.sh.
if need curl curl; then
	socks=$(said earth 'SOCKS5 proxy') http=$(said earth 'HTTP proxy')
	expect red curl -sS --max-time 30 --proxy "socks5h://$socks" http://venus.example.com/planet.txt
	expect red curl -sS --max-time 30 --proxy "http://$http" http://venus.example.com/planet.txt
	expect red curl -sS --max-time 30 --proxytunnel --proxy "http://$http" http://venus.example.com/planet.txt
	step curl -sS --max-time 60 --proxy "socks5h://$socks" -o "$work/big" -w '%{size_download} bytes, %{speed_download} bytes a second\n' http://venus.example.com/big
	cmp "$work/big" "$work/shared/big" || fail "the download differs"
	echo "20 MB, byte for byte the same"
	if step curl -sS --max-time 30 --proxy "socks5h://$socks" http://pluto.example.com/; then
		fail "there is no pluto"
	fi
fi
