# Lets uv use what the machine has set up for pip; sourced by setup.sh and by `make lock`.
#
# uv reads none of pip's settings, and a machine on which pip can install should need no more.

# Prints one of pip's settings, from its environment variable or its files; nothing when it is not set.
pip_setting() {
    local variable="PIP_$(echo "$1" | tr 'a-z-' 'A-Z_')"
    if [ -n "${!variable:-}" ]; then
        echo "${!variable}"
    else
        # `pip config get` looks into one of several files only. An environment may have no pip.
        { "${VENV:-.venv}/bin/python" -m pip config list 2>/dev/null || true; } | sed -n "s/^global\.$1='\(.*\)'$/\1/p"
    fi
}

# Exports pip's package index and certificates under the names that uv reads, unless those are set already.
adopt_pip_settings() {
    local index certificates
    index=$(pip_setting index-url)
    certificates=$(pip_setting cert)
    [ -z "$index" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$index}"
    [ -z "$certificates" ] || export SSL_CERT_FILE="${SSL_CERT_FILE:-$certificates}"
}

# Sets TORCH_OPTIONS, and exports UV_FIND_LINKS where a wheel folder is known.
#
# The CPU build of torch is not on the default package index: it comes from a wheel folder that uv or pip has been
# told of, else uv asks PyTorch's own index.
find_cpu_torch() {
    local links="${UV_FIND_LINKS:-$(pip_setting find-links | tr -s ' \n' ',' | sed 's/,$//')}"
    if [ -n "$links" ]; then
        export UV_FIND_LINKS="$links"
        TORCH_OPTIONS=""
    else
        TORCH_OPTIONS="--torch-backend cpu"
    fi
}
