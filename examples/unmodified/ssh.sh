# ssh and scp with a ProxyCommand, and an sshd on mars that listens on
# loopback only. Sourced by run.sh.
if need ssh openssh-client && need scp openssh-client && need sshd openssh-server; then
	[ "$(id -u)" != 0 ] || mkdir -p /run/sshd # sshd's own folder, that its service makes
	ssh-keygen -q -t ed25519 -N '' -f "$work/host"
	ssh-keygen -q -t ed25519 -N '' -f "$work/id"
	cat >"$work/sshd_config" <<-CONF
		ListenAddress 127.0.0.1:$sshd
		HostKey $work/host
		AuthorizedKeysFile $work/id.pub
		StrictModes no
		UsePAM no
		PasswordAuthentication no
		PermitRootLogin yes
		PidFile none
		Subsystem sftp internal-sftp
	CONF
	start sshd 'Server listening' "$(PATH=$PATH:/usr/sbin command -v sshd)" -D -e -f "$work/sshd_config"
	cat >"$work/ssh_config" <<-CONF
		Host *.example.com
			ProxyCommand $work/gateway connect -dir $work/earth %h:%p
			IdentityFile $work/id
			IdentitiesOnly yes
			BatchMode yes
			StrictHostKeyChecking accept-new
			UserKnownHostsFile $work/known
	CONF
	at=$(id -un)@mars.example.com
	expect 'over the overlay' ssh -F "$work/ssh_config" "$at" 'echo over the overlay'
	step scp -q -F "$work/ssh_config" "$work/shared/big" "$at:$work/there"
	cmp "$work/there" "$work/shared/big" || fail "the copy differs"
	echo "20 MB there, byte for byte the same"
	step scp -q -F "$work/ssh_config" "$at:$work/there" "$work/back"
	cmp "$work/back" "$work/shared/big" || fail "the copy differs"
	echo "and back"
fi
