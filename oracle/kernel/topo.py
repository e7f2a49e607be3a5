"""the small world every generated case lives in: one router, three networks"""

HOSTS = {4: {"eth0": ["10.0.0.2", "10.0.0.3"], "eth1": ["10.0.1.2", "10.0.1.3"], "eth2": ["10.0.2.2"]},
         6: {"eth0": ["fd00::2"], "eth1": ["fd00:1::2", "fd00:1::3"], "eth2": ["fd00:2::2"]}}
ROUTER = {4: {"eth0": "10.0.0.1", "eth1": "10.0.1.1", "eth2": "10.0.2.1"},
          6: {"eth0": "fd00::1", "eth1": "fd00:1::1", "eth2": "fd00:2::1"}}
NETS = {4: ["10.0.0.0/24", "10.0.1.0/24", "10.0.0.0/8", "10.0.0.2/31", "0.0.0.0/0"],
        6: ["fd00::/64", "fd00:1::/64", "fd00::/8"]}
OFFNET = {4: "192.0.2.9", 6: "2001:db8::9"}     # reached by the default route, where there is one
VIP = {4: "10.0.1.200", 6: "fd00:1::aa:200"}    # nobody's address: longer than the others, for NAT that changes lengths
LOOP = {4: "127.0.0.1", 6: "::1"}
DEFAULT_ROUTE = {4: "default via 10.0.1.2 dev eth1", 6: "default via fd00:1::2 dev eth1"}
POLICY_ROUTING = ["route add default via 10.0.2.2 dev eth2 table 10", "rule add fwmark 1 table 10 priority 100"]
SERVICE_PORTS = [21, 22, 53, 80, 443, 1000, 5060, 8080]
CLIENT_PORTS = [1000, 1001, 4000, 33333, 53, 80]
IFS = [{"name": n, "addrs": [ROUTER[4][n] + "/24", ROUTER[6][n] + "/64"]} for n in ROUTER[4]]


def hosts(fam):
    """every host beside the router"""
    return [h for hs in HOSTS[fam].values() for h in hs]


def at(addr, port, fam):
    """ADDR:PORT as NAT targets want it"""
    return "%s:%d" % (addr, port) if fam == 4 else "[%s]:%d" % (addr, port)
