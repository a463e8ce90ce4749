# dig against the DNS port. Sourced by run.sh.
if need dig dnsutils; then
	dns=$(said earth 'DNS for example.com')
	ask=(dig "@${dns%:*}" -p "${dns##*:}" +time=10 +tries=2)
	expect 198.1 "${ask[@]}" +short mars.example.com A
	lsi=$("${ask[@]}" +short mars.example.com A)
	expect 2001:2 "${ask[@]}" +short mars.example.com AAAA
	expect mars.example.com. "${ask[@]}" +short -x "$lsi"
	expect mars.example.com. "${ask[@]}" +short -x "$("${ask[@]}" +short mars.example.com AAAA)"
	expect idloc= "${ask[@]}" +short mars.example.com TXT
	expect _dns.example.com. "${ask[@]}" +short example.com NS
	expect hostmaster.example.com. "${ask[@]}" +short example.com SOA
	expect "$lsi" "${ask[@]}" +short +tcp MARS.example.com A
	expect 'status: NXDOMAIN' "${ask[@]}" +noall +comments pluto.example.com A
	expect 'status: NOERROR' "${ask[@]}" +noall +comments +authority mars.example.com MX
fi
