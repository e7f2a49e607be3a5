"""Messages of H.323 for h323.txt, encoded by pycrate (pip install pycrate), which compiles the ASN.1 modules of
ITU-T H.225.0 and H.245: another PER than the one under test.  Wireshark's
tshark and text2pcap look at each as well.  Prints lines of

    NAME FAMILY HEX ROLE@OFFSET...

with the places of addresses that count, each followed by its port; NAME ras-*, q931-* (the whole Q.931 message) or
h245-*.  Every address and port is a sentinel, to be written over.

    python3 oracle/kernel/h323_vectors.py > oracle/kernel/h323.txt"""
import random
import re
import subprocess
import tempfile

from pycrate_asn1dir.H225 import H323_MESSAGES as H225
from pycrate_asn1dir.H245 import MULTIMEDIA_SYSTEM_CONTROL as H245

PROTOCOL = (0, 0, 8, 2250, 0, 4)
# Additions in version 4 of H.225.0, version 7 of H.245. Linux cannot read messages with more, whether they are there
# or not; names that end in -new have all that there are now.
ADDITIONS = {H225: {"Setup_UUIE": 14, "Alerting_UUIE": 14, "Connect_UUIE": 15, "CallProceeding_UUIE": 9, "Progress_UUIE": 3, "Facility_UUIE": 16,
                    "ReleaseComplete_UUIE": 8, "H323_UU_PDU": 9, "RegistrationRequest": 18, "RegistrationConfirm": 15, 
                    "AdmissionRequest": 20, "AdmissionConfirm": 17, "GatekeeperRequest": 9, "GatekeeperConfirm": 8, "UnregistrationRequest": 7, "LocationRequest": 10,
                    "LocationConfirm": 10, "InfoRequestResponse": 7},
             H245: {"OpenLogicalChannel": 2, "OpenLogicalChannelAck": 3, "H2250LogicalChannelParameters": 3,
                    "H2250LogicalChannelAckParameters": 1}}
ALL = {(m, name): list(getattr(m, name)._ext_nest) for m, names in ADDITIONS.items() for name in names}


def version(new):
    # the lists are shared by all places where a type is used
    for (module, name), known in ALL.items():
        getattr(module, name)._ext_nest[:] = known if new else known[:ADDITIONS[module][name]]


class Maker:
    def __init__(self, name, fam, n):
        self.r, self.fam = random.Random("%s %d %d" % (name, fam, n)), fam
        self.places = []

    # ------------------------------------------------------------- pieces
    def maybe(self, p=.5):
        return self.r.random() < p

    def octets(self, n):
        return bytes(self.r.randrange(256) for _ in range(n))

    def sentinel(self, role):
        """an address that is found again in the encoding"""
        n = len(self.places)
        ip = bytes([0xA5, 0x5A, 0xC3, n]) if self.fam == 4 else bytes([0xFD, 0xA5, 0x5A, 0xC3] + [0] * 11 + [n])
        port = 0xE000 + 2 * n
        self.places.append((role, ip + port.to_bytes(2, "big")))
        return ip, port

    def addr(self, role):
        ip, port = self.sentinel(role)
        return ("ipAddress" if self.fam == 4 else "ip6Address", {"ip": ip, "port": port})

    def odd(self):
        """an address of another kind"""
        return self.r.choice([("netBios", self.octets(16)), ("nsap", self.octets(self.r.randint(1, 20))),
                              ("ipxAddress", {"node": self.octets(6), "netnum": self.octets(4), "port": self.octets(2)}),
                              ("ipSourceRoute", {"ip": self.octets(4), "port": 7, "route": [self.octets(4)], "routing": ("strict", 0)}),
                              ("nonStandardAddress", self.nonstandard())])

    def addrs(self, role, most=3):
        return [self.odd() if self.maybe(.2) else self.addr(role) for _ in range(self.r.randint(1, most))]

    def media(self, role):
        ip, port = self.sentinel(role)
        kind = "iPAddress" if self.fam == 4 else "iP6Address"
        return ("unicastAddress", (kind, {"network": ip, "tsapIdentifier": port}))

    def nonstandard(self):
        ident = self.r.choice([("object", (1, 3, 6, 1, 4, 1, self.r.randrange(5000))),
                               ("h221NonStandard", {"t35CountryCode": 181, "t35Extension": 0, "manufacturerCode": self.r.randrange(65536)})])
        return {"nonStandardIdentifier": ident, "data": self.octets(self.r.randrange(12))}

    def alias(self):
        r = self.r
        return r.choice([("dialledDigits", "".join(r.choice("0123456789#*,") for _ in range(r.randint(1, 15)))),
                         ("h323-ID", "".join(r.choice("abcdef") for _ in range(r.randint(1, 9)))),
                         ("url-ID", "h323:me@example"), ("email-ID", "me@example.org")])

    def aliases(self):
        return [self.alias() for _ in range(self.r.randint(1, 3))]

    def some(self, into, **what):
        for k, make in what.items():
            if self.maybe():
                into[k.replace("_", "-") if k == "h323_ID" else k] = make()
        return into

    def ident(self):
        return "".join(self.r.choice("GKendpoint01") for _ in range(self.r.randint(1, 12)))

    def vendor(self):
        v = {"vendor": {"t35CountryCode": 9, "t35Extension": 0, "manufacturerCode": 61}}
        return self.some(v, productId=lambda: b"phone", versionId=lambda: b"1.2")

    def endpoint(self):
        e = {"mc": self.maybe(), "undefinedNode": self.maybe()}
        gateway = lambda: self.some({}, protocol=lambda: [self.r.choice([("voice", {}), ("h323", {}), ("h320", {"nonStandardData": self.nonstandard()})])])
        return self.some(e, nonStandardData=self.nonstandard, vendor=self.vendor, gateway=gateway, terminal=lambda: {}, mcu=lambda: {})

    def call_id(self):
        return {"guid": self.octets(16)}

    def services(self):
        s = {k: self.maybe() for k in ("q932Full", "q951Full", "q952Full", "q953Full", "q955Full", "q956Full", "q957Full")}
        s["q954Info"] = {"conferenceCalling": self.maybe(), "threePartyService": self.maybe()}
        return s

    def call_type(self):
        return (self.r.choice(["pointToPoint", "oneToN", "nToOne", "nToN"]), 0)

    def model(self):
        return (self.r.choice(["direct", "gatekeeperRouted"]), 0)

    # ------------------------------------------------------------- RAS
    def seq(self):
        return self.r.randint(1, 65535)

    def grq(self):
        m = {"requestSeqNum": self.seq(), "protocolIdentifier": PROTOCOL, "rasAddress": self.addr("Ras"), "endpointType": self.endpoint()}
        return self.some(m, nonStandardData=self.nonstandard, gatekeeperIdentifier=self.ident, endpointAlias=self.aliases, callServices=self.services)

    def gcf(self):
        m = {"requestSeqNum": self.seq(), "protocolIdentifier": PROTOCOL, "rasAddress": self.addr("Gatekeeper")}
        return self.some(m, nonStandardData=self.nonstandard, gatekeeperIdentifier=self.ident)

    def rrq(self):
        m = {"requestSeqNum": self.seq(), "protocolIdentifier": PROTOCOL, "discoveryComplete": self.maybe(), "callSignalAddress": self.addrs("Listens"),
             "rasAddress": self.addrs("Ras", 2), "terminalType": self.endpoint(), "endpointVendor": self.vendor()}
        m = self.some(m, nonStandardData=self.nonstandard, terminalAlias=self.aliases, gatekeeperIdentifier=self.ident)
        m = self.some(m, keepAlive=self.maybe, endpointIdentifier=self.ident)
        if self.maybe(.7):
            m["keepAlive"] = self.maybe()
            self.life(m)
        return m

    def life(self, m):
        """a time to live; Linux cannot read one that ends the message"""
        m["timeToLive"] = self.r.choice([600, 1200, 3600])
        self.places.append(("Life", m["timeToLive"]))

    def rcf(self):
        m = {"requestSeqNum": self.seq(), "protocolIdentifier": PROTOCOL, "callSignalAddress": self.addrs("Signal"), "endpointIdentifier": self.ident()}
        m = self.some(m, terminalAlias=self.aliases, gatekeeperIdentifier=self.ident, willRespondToIRR=self.maybe)
        if self.maybe(.6):
            m["willRespondToIRR"] = True
            self.life(m)
        return m

    def urq(self):
        m = {"requestSeqNum": self.seq(), "callSignalAddress": self.addrs("Signal")}
        return self.some(m, endpointAlias=self.aliases, endpointIdentifier=self.ident, gatekeeperIdentifier=self.ident)

    def arq(self):
        m = {"requestSeqNum": self.seq(), "callType": self.call_type(), "endpointIdentifier": self.ident()}
        if self.maybe():
            m["destinationInfo"] = self.aliases()
        if self.maybe(.6):
            m["destCallSignalAddress"] = self.addr("Answers")
        m["srcInfo"] = self.aliases()
        if self.maybe(.6):
            m["srcCallSignalAddress"] = self.addr("Calls")
        m.update({"bandWidth": self.r.choice([0, 640, 100000]), "callReferenceValue": 77, "conferenceID": self.octets(16), "activeMC": False, "answerCall": self.maybe()})
        return self.some(m, callModel=self.model, callServices=self.services, nonStandardData=self.nonstandard, canMapAlias=self.maybe, callIdentifier=self.call_id)

    def acf(self):
        m = {"requestSeqNum": self.seq(), "bandWidth": self.r.choice([1, 300, 70000, 20000000]), "callModel": self.model(), "destCallSignalAddress": self.addr("Admitted")}
        return self.some(m, irrFrequency=self.seq, nonStandardData=self.nonstandard)

    def lrq(self):
        m = {"requestSeqNum": self.seq(), "destinationInfo": self.aliases(), "replyAddress": self.addr("Ras")}
        return self.some(m, endpointIdentifier=self.ident, nonStandardData=self.nonstandard, canMapAlias=self.maybe)

    def lcf(self):
        m = {"requestSeqNum": self.seq(), "callSignalAddress": self.addr("Located"), "rasAddress": self.addr("-")}
        return self.some(m, nonStandardData=self.nonstandard)

    def irr(self):
        m = {"requestSeqNum": self.seq(), "endpointType": self.endpoint(), "endpointIdentifier": self.ident(), "rasAddress": self.addr("Ras"),
             "callSignalAddress": self.addrs("Signal")}
        return self.some(m, nonStandardData=self.nonstandard, endpointAlias=self.aliases)

    RAS = {"grq": "gatekeeperRequest", "gcf": "gatekeeperConfirm", "rrq": "registrationRequest", "rcf": "registrationConfirm", "urq": "unregistrationRequest",
           "arq": "admissionRequest", "acf": "admissionConfirm", "lrq": "locationRequest", "lcf": "locationConfirm", "irr": "infoRequestResponse"}

    def ras(self, kind):
        H225.RasMessage.set_val((self.RAS[kind], getattr(self, kind)()))
        return H225.RasMessage.to_aper()

    # ------------------------------------------------------------- H.245
    def audio(self):
        r = self.r
        return ("audioData", r.choice([("g711Alaw64k", r.randint(1, 256)), ("g711Ulaw64k", 20), ("g729", 4), ("g7231", {"maxAl-sduAudioFrames": 3, "silenceSuppression": True}),
                                       ("nonStandard", self.nonstandard()), ("g729wAnnexB", 3), ("gsmFullRate", {"audioUnitSize": 33, "comfortNoise": False, "scrambled": False})]))

    def video(self):
        h261 = self.some({"temporalSpatialTradeOffCapability": self.maybe(), "maxBitRate": self.r.randint(1, 19200), "stillImageTransmission": False},
                         qcifMPI=lambda: 1, cifMPI=lambda: 2)
        h263 = {k: self.maybe() for k in ("unrestrictedVector", "arithmeticCoding", "advancedPrediction", "pbFrames", "temporalSpatialTradeOffCapability")}
        h263 = self.some(dict(h263, maxBitRate=self.r.choice([3, 3000, 100000])), cifMPI=lambda: 2, qcifMPI=lambda: 32, **{"bppMaxKb": lambda: 500})
        if self.maybe(.3):
            h263["hrd-B"] = self.r.choice([5, 500, 500000])
        return ("videoData", self.r.choice([("h261VideoCapability", h261), ("h263VideoCapability", h263), ("nonStandard", self.nonstandard())]))

    def t120(self):
        app = self.r.choice([("t120", ("separateLANStack", 0))] * 4 + [("t120", ("transparent", 0)), ("userData", ("separateLANStack", 0))])
        return ("data", {"application": app, "maxBitRate": self.r.choice([1, 640, 3840000])}), app == ("t120", ("separateLANStack", 0))

    def parameters(self):
        m = {"sessionID": self.r.randrange(256)}
        if self.maybe(.2):
            m["nonStandard"] = [self.nonstandard()]
        if self.maybe(.3):
            m["associatedSessionID"] = self.r.randint(1, 255)
        if self.maybe(.7):
            m["mediaChannel"] = self.media("Media")
        if self.maybe(.3):
            m["mediaGuaranteedDelivery"] = False
        if self.maybe(.7):
            m["mediaControlChannel"] = self.media("Media")
        return self.some(m, silenceSuppression=self.maybe, dynamicRTPPayloadType=lambda: 101)

    def stack(self, role):
        m = {}
        if self.maybe(.3):
            m["distribution"] = ("unicast", 0)
        m["networkAddress"] = ("localAreaAddress", self.media(role)) if self.maybe(.9) else ("e164Address", "0123")
        return dict(m, associateConference=False)

    def number(self):
        return self.r.randint(1, 65535)

    def multiplex(self):
        return ("h2250LogicalChannelParameters", self.parameters())

    def channel(self, data=None):
        lan = False
        if data is None:
            data = self.r.choice([self.audio, self.audio, self.video, None])
            if data is None:
                data, lan = self.t120()
            else:
                data = data()
        m = {"forwardLogicalChannelNumber": self.number()}
        forward = {"dataType": data, "multiplexParameters": self.multiplex()}
        if self.maybe(.2):
            forward["portNumber"] = 9
        m["forwardLogicalChannelParameters"] = forward
        if self.maybe(.3):
            m["reverseLogicalChannelParameters"] = {"dataType": self.audio(), "multiplexParameters": self.multiplex()} if self.maybe(.8) else {"dataType": ("nullData", 0)}
        if data[0] == "data" or self.maybe(.1):
            m["separateStack"] = self.stack("Stack" if lan else "-")
        return m

    def channel_ack(self):
        m = {"forwardLogicalChannelNumber": self.number()}
        if self.maybe(.4):
            back = {"reverseLogicalChannelNumber": self.number()}
            if self.maybe(.7):
                back["multiplexParameters"] = self.multiplex()
            m["reverseLogicalChannelParameters"] = back
        if self.maybe(.2):
            m["separateStack"] = self.stack("AckStack")
        ack = {}
        if self.maybe(.7):
            ack["sessionID"] = self.r.randint(1, 255)
        if self.maybe(.8):
            ack["mediaChannel"] = self.media("Media")
        if self.maybe(.8):
            ack["mediaControlChannel"] = self.media("Media")
        if self.maybe(.9):
            m["forwardMultiplexAckParameters"] = ("h2250LogicalChannelAckParameters", ack)
        return m

    def control(self):
        x = self.r.random()
        if x < .5:
            return ("request", ("openLogicalChannel", self.channel()))
        if x < .9:
            return ("response", ("openLogicalChannelAck", self.channel_ack()))
        return self.r.choice([("request", ("masterSlaveDetermination", {"terminalType": 50, "statusDeterminationNumber": 1234567})),
                              ("request", ("roundTripDelayRequest", {"sequenceNumber": 3})),
                              ("command", ("endSessionCommand", ("disconnect", 0))), ("indication", ("userInput", ("alphanumeric", "5")))])

    def h245(self, kind):
        message = {"olc": lambda: ("request", ("openLogicalChannel", self.channel())),
                   "ack": lambda: ("response", ("openLogicalChannelAck", self.channel_ack())), "any": self.control}[kind]()
        return self.encode245(message)

    def encode245(self, message):
        H245.MultimediaSystemControlMessage.set_val(message)
        return H245.MultimediaSystemControlMessage.to_aper()

    # ------------------------------------------------------------- calls
    def fast(self, m, p=.5):
        if self.maybe(p):
            items = []
            for _ in range(self.r.randint(1, 3)):
                H245.OpenLogicalChannel.set_val(self.channel(self.r.choice([self.audio, self.video])()))
                items.append(H245.OpenLogicalChannel.to_aper())
            m["fastStart"] = items

    def body(self, kind):
        m = {"protocolIdentifier": PROTOCOL}
        h245 = lambda: m.update(h245Address=self.addr("H245")) if self.maybe(.7) else None
        if kind == "setup":
            h245()
            self.some(m, sourceAddress=self.aliases, destinationAddress=self.aliases, destExtraCallInfo=self.aliases, callServices=self.services)
            m["sourceInfo"] = self.endpoint()
            if self.maybe(.7):
                m["destCallSignalAddress"] = self.addr("Callee")
            m.update({"activeMC": False, "conferenceID": self.octets(16), "conferenceGoal": (self.r.choice(["create", "join", "invite"]), 0), "callType": self.call_type()})
            if self.maybe(.7):
                m["sourceCallSignalAddress"] = self.addr("Caller")
            m["callIdentifier"] = self.call_id()
            self.some(m, mediaWaitForConnect=self.maybe)
            self.fast(m)
        elif kind in ("callProceeding", "alerting", "progress"):
            m["destinationInfo"] = self.endpoint()
            h245()
            m["callIdentifier"] = self.call_id()
            self.fast(m, .5 if kind != "progress" else 1)
        elif kind == "connect":
            h245()
            m.update({"destinationInfo": self.endpoint(), "conferenceID": self.octets(16)})
            m["callIdentifier"] = self.call_id()
            self.fast(m)
        elif kind == "facility":
            m["reason"] = (self.r.choice(["routeCallToGatekeeper", "routeCallToMC", "undefinedReason"]), 0)
            if self.maybe(.3):
                m["alternativeAddress"] = self.addr("-")
            self.some(m, alternativeAliasAddress=self.aliases)
            m["callIdentifier"] = self.call_id()
            h245()
            self.fast(m)
        elif kind == "forward":
            m["reason"] = ("callForwarded", 0)
            m["alternativeAddress"] = self.addr("Alternative")
            self.some(m, conferenceID=lambda: self.octets(16), alternativeAliasAddress=self.aliases)
            if self.maybe(.2):
                m["h245Address"] = self.addr("-")
        elif kind == "releaseComplete":
            self.some(m, reason=lambda: ("undefinedReason", 0), callIdentifier=self.call_id)
        return ("facility" if kind == "forward" else kind, m) if kind != "empty" else ("empty", 0)

    TYPES = {"setup": 5, "callProceeding": 2, "alerting": 1, "connect": 7, "progress": 3, "facility": 0x62, "forward": 0x62, "releaseComplete": 0x5A, "empty": 0x62}

    def q931(self, kind):
        pdu = {"h323-message-body": self.body(kind)}
        if self.maybe(.2):
            pdu["nonStandardData"] = self.nonstandard()
        if self.maybe():
            pdu["h245Tunnelling"] = True
        if kind == "empty" or self.maybe(.25):
            pdu["h245Tunnelling"] = True
            pdu["h245Control"] = [self.encode245(self.control()) for _ in range(self.r.randint(1, 3))]
        info = {"h323-uu-pdu": pdu}
        if self.maybe(.2):
            info["user-data"] = {"protocol-discriminator": 5, "user-information": b"x"}
        H225.H323_UserInformation.set_val(info)
        uu = H225.H323_UserInformation.to_aper()
        m = bytes([8, 2, self.r.randrange(128), self.r.randrange(256), self.TYPES[kind]])
        if self.maybe(.7):
            m += b"\x04\x03\x88\x93\xa5"
        if self.maybe():
            m += b"\x28\x03me\0"
        return m + b"\x7e" + (len(uu) + 1).to_bytes(2, "big") + b"\5" + uu


def sound(name, messages):
    """which messages Wireshark reads as they are: pycrate puts an octet too many before some additions"""
    family = name.split("-")[0]
    dump = ""
    for data in messages:
        if family != "ras":
            data = b"\3\0" + (len(data) + 4).to_bytes(2, "big") + data
        dump += "".join("%06x %s\n" % (i, data[i:i + 16].hex(" ")) for i in range(0, len(data), 16)) + "\n"
    port = {"ras": 1719, "q931": 1720, "h245": 5000}[family]
    with tempfile.NamedTemporaryFile(suffix=".pcap") as f:
        subprocess.run(["text2pcap", "-q", "-u" if family == "ras" else "-T", "%d,3000" % port, "-", f.name], input=dump, text=True, check=True,
                       capture_output=True)
        shown = subprocess.run(["tshark", "-r", f.name, "-V", "-d", "tcp.port==5000,h245"], text=True, capture_output=True).stdout
    frames = re.split(r"^Frame \d+: ", shown, flags=re.M)[1:]
    assert len(frames) == len(messages)
    word = {"ras": "RasMessage", "q931": "H323-UserInformation", "h245": "PDU Type"}[family]
    return [word in f and not re.search("Malformed|Possible encoding error|Unreassembled", f) for f in frames]


def vector(name, fam, n):
    """message n and its line; None when pycrate cannot encode it"""
    family, kind = name.split("-")[:2]
    version(name.endswith("-new"))
    m = Maker(name, fam, n)
    data = getattr(m, family)(kind)
    places = []
    for role, what in m.places:
        if role == "Life":
            places.append((len(data), "Life@%d" % what))
        elif role != "-":
            if data.count(what) != 1:
                return None
            places.append((data.index(what), "%s@%d" % (role, data.index(what))))
    return data, " ".join([name, str(fam), data.hex()] + [p for _, p in sorted(places)])


NAMES = ["ras-" + k for k in Maker.RAS] + ["q931-" + k for k in Maker.TYPES] + ["h245-olc", "h245-ack", "h245-any"]
NAMES += [n + "-new" for n in ("ras-rrq", "ras-arq", "q931-setup", "q931-alerting", "q931-connect", "h245-olc")]
VARIANTS, TRIED = 9, 60

if __name__ == "__main__":
    print("# made by h323_vectors.py with pycrate, each read by Wireshark as well")
    for name in NAMES:
        for fam in (4, 6):
            made = [v for v in (vector(name, fam, n) for n in range(TRIED)) if v]
            lines = [line for (_, line), good in zip(made, sound(name, [data for data, _ in made])) if good]
            for line in lines[:VARIANTS if fam == 4 else VARIANTS // 2]:
                print(line)
