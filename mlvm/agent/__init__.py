"""What runs inside the guest.

Standard library only, Python 3.9 or newer, and nothing of mlvm: the files of this folder are copied into the
image as they are. The host's half of the conversation is `mlvm.machine.channel`.
"""
