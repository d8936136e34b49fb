# What a guest of the demo has on its first terminal: something that moves, and after the Enter key a shell.
dmesg -n 1
export PATH=/bin HOME=/tmp PS1='\[\033[1;36m\]guest\[\033[0m\]:\w\$ '
printf '#!/bin/sh\nexec /init picture "$1"\n' >/bin/picture
chmod 755 /bin/picture
cd /tmp
while :; do
    clear
    "$1" 'press Enter for a console'
    clear
    printf '\033[1mThis is a virtual machine.\033[0m Its screen, keyboard and pointer are Beamsplit'\''s.\n\n'
    printf "    %-15sthe moving picture again, until Enter\n" "$1"
    printf '    poweroff -f    ends the machine\n\n'
    sh -i
done
