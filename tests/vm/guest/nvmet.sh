#!/bin/sh
# Volumes of this guest's kernel target, nvmet over TCP on loopback, with EBS's model and serials.
# The guest's half of nvmet.py. Usage: nvmet.sh VERB VOLUME…, where VERB is one of the functions at the end.
set -eu

volumes=/scratch/volumes
target=/sys/kernel/config/nvmet
port=$target/ports/1

# Sets what belongs to the volume with this ID.
locate() {
    id=$1
    serial=vol${id#vol-}
    nqn=nqn.2024-01.test.ebs:$id
    subsystem=$target/subsystems/$nqn
    file=$volumes/$id.img
}

open_port() {
    modprobe nvme-tcp
    modprobe nvmet-tcp
    [ -d $port ] && return
    mkdir $port
    echo tcp > $port/addr_trtype
    echo ipv4 > $port/addr_adrfam
    echo 127.0.0.1 > $port/addr_traddr
    echo 4420 > $port/addr_trsvcid
}

# A volume is a subsystem of its own, as on EC2. It is the file itself, not a loop device, which would be a second
# device with the same filesystem on it.
export_volume() {
    if ! [ -d "$subsystem" ]; then
        mkdir "$subsystem"
        echo 1 > "$subsystem/attr_allow_any_host"
        echo "Amazon Elastic Block Store" > "$subsystem/attr_model"
        echo "$serial" > "$subsystem/attr_serial"
        mkdir "$subsystem/namespaces/1"
        echo "$file" > "$subsystem/namespaces/1/device_path"
        echo 1 > "$subsystem/namespaces/1/enable"
    fi
    [ -L "$port/subsystems/$nqn" ] || ln -s "$subsystem" "$port/subsystems/$nqn"
}

# Prints the volume's device, nvmeXn1: never a hidden path of it, nvmeXcYn1.
find_device() {
    for block in /sys/block/nvme*; do
        case ${block##*/} in nvme*c*) continue ;; esac
        # It may vanish meanwhile. No program is started for this: twenty volumes ask it of twenty devices.
        { read -r found < "$block/device/serial"; } 2> /dev/null || continue
        if [ "$found" = "$serial" ]; then
            echo "/dev/${block##*/}"
            return
        fi
    done
}

# Ends the connection, as `nvme disconnect` does; nothing where there is none.
delete_controller() {
    for controller in /sys/class/nvme/nvme*; do
        { read -r found < "$controller/subsysnqn"; } 2> /dev/null || continue
        [ "$found" != "$nqn" ] || echo 1 > "$controller/delete_controller"
    done
}

# Waits for a condition that takes no event to wait for, half a minute at most.
wait_until() {
    attempts=600
    until "$@"; do
        attempts=$((attempts - 1))
        if [ $attempts -eq 0 ]; then
            echo "$id: not so in time: $*" >&2
            exit 1
        fi
        sleep 0.05
    done
}

is_shown() { [ -b "$(find_device)" ]; }
is_gone() { [ -z "$(find_device)" ]; }

create() { # VOLUME SIZE_BYTES, in pairs
    mkdir -p "$volumes"
    while [ $# -gt 0 ]; do
        locate "$1"
        truncate -s "$2" "$file"
        shift 2
    done
}

connect() { # VOLUME…
    open_port
    for volume in "$@"; do
        locate "$volume"
        export_volume
        # What `nvme connect` writes, without starting it, which takes an emulated processor a second. Without
        # keep-alives a slow machine loses no volume by being slow; with no time to come back a connection that breaks
        # takes the device with it at once, as on EC2.
        echo "transport=tcp,traddr=127.0.0.1,trsvcid=4420,nqn=$nqn,keep_alive_tmo=0,ctrl_loss_tmo=0" > /dev/nvme-fabrics
    done
    for volume in "$@"; do
        locate "$volume"
        wait_until is_shown
        find_device
    done
}

lookup() { # VOLUME
    locate "$1"
    find_device
}

disconnect() { # VOLUME
    locate "$1"
    delete_controller
    wait_until is_gone
}

pull() { # VOLUME
    locate "$1"
    rm "$port/subsystems/$nqn"
    wait_until is_gone
}

grow() { # VOLUME SIZE_BYTES
    locate "$1"
    truncate -s "$2" "$file"
    echo 1 > "$subsystem/namespaces/1/revalidate_size"
}

remove() { # VOLUME…
    for volume in "$@"; do
        locate "$volume"
        delete_controller
        rm -f "$port/subsystems/$nqn"
        if [ -d "$subsystem" ]; then
            echo 0 > "$subsystem/namespaces/1/enable"
            rmdir "$subsystem/namespaces/1" "$subsystem"
        fi
        wait_until is_gone
        rm -f "$file"
    done
}

remove_all() {
    for image in "$volumes"/vol-*.img; do
        [ -e "$image" ] || continue
        image=${image##*/}
        remove "${image%.img}"
    done
}

"$@"
