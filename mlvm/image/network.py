"""The addresses of a guest: QEMU's user network, the same in every machine."""

ADDRESS, NETMASK, GATEWAY, NAMESERVER = "10.0.2.15", "255.255.255.0", "10.0.2.2", "10.0.2.3"
#: The word of the guest kernel's command line by which the initramfs knows the address.
NETWORK_WORD = f"mlvm.network={ADDRESS},{NETMASK},{GATEWAY}"
