"""Every bound on what a peer can make this node hold, wait for or do, with its reason.

Rule for editing: nothing that a peer can grow may be bounded anywhere else, and a value without a reason is a bug.
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# --- Blobs ----------------------------------------------------------------------------------------------------------
LEAF_BYTES: Final = 64 * KIB  # hashing one costs ~50 us, so verifying on arrival never holds the loop up
BLOB_BYTES_MAX: Final = 128 * 1024 * MIB  # state of the 8b preset with optimizer, twice over; its hash list is 64 MiB
HASHES_PER_FRAME: Final = 2048  # 64 KiB of leaf hashes: no frame of the bulk kind is larger than a leaf
LEAVES_PER_REQUEST: Final = 8  # 512 KiB per read on the serving side, and per write: one thread hop for eight leaves
REQUESTS_PER_HOLDER: Final = 4  # 2 MiB in flight from one holder: 100 ms x 160 Mbit/s, and loopback stays busy
HOLDERS_AT_ONCE: Final = 8  # a source and seven who fetch the same; each costs up to 2 MiB of memory in flight
GROUPS_MIN: Final = 128  # into which a long blob is cut at least, so that eight who share it seldom ask for the same
REQUESTS_MIN: Final = 2  # to a holder whose speed is not known, or low: one on its way while the next is asked for
FLIGHT_SECONDS: Final = 0.5  # a request that takes longer has waited behind our own: fewer are made at a time
FELLOW_SECONDS_MAX: Final = 15.0  # without anything new from those who only fetch it, too: their source is gone
SHARED_LEAVES_MIN: Final = 64  # 4 MiB: below it, asking who holds which parts costs more than it spares the source
FELLOWS_MAX: Final = 32  # peers that fetch the same blob and are reckoned with; more of them only share the work finer
HELD_SECONDS: Final = 0.05  # between two answers to one peer that say what is held by now: 20 a second, 32 KiB at most
HELD_QUESTIONS_MAX: Final = 16  # of one peer, each of another blob, waiting until there is more to say
LINGER_SECONDS: Final = 2.0  # a fetched blob is served from memory for so long, until its owner has put it in its place
ASKERS_PER_LEAF_MAX: Final = 2  # at the end, for what somebody is slow with; a third would only be more traffic
BLOB_REQUESTS_QUEUED_MAX: Final = 32  # asked of us by one peer; ours keeps to REQUESTS_PER_HOLDER for each fetch
FETCHES_PER_HOLDER_MAX: Final = 8  # of ours, from one peer at once: 8 x 4 requests are what its queue of 32 takes
HOLDER_SECONDS_MAX: Final = 5.0  # without any leaf from a holder before another one is asked
HOLDER_BYTES_PER_SECOND_MIN: Final = 128 * KIB  # below it a holder makes room for one that was not tried: 1 Mbit/s
RATE_SECONDS: Final = 3.0  # over which that is measured: longer than what a round trip and a busy disk take
PATIENCE_SECONDS_MIN: Final = 0.25  # before a leaf is asked of a second holder, so that a busy moment costs no traffic
PATIENCE_SECONDS_MAX: Final = 2.0  # the same for a holder whose speed is not known yet, or low
HASHES_ON_LOOP_MAX: Final = 1024  # a tree over 64 KiB of hashes; longer lists are hashed in a worker thread

# --- Spreading ------------------------------------------------------------------------------------------------------
SPREAD_MEMBERS_MIN: Final = 8  # below it the author sends seven copies at most, and a fetch has one hop less
SPREAD_LEAVES_MIN: Final = 2  # of one leaf there is nothing to share: its relay would carry what the author is spared
RELAYS_PER_LEAF_MAX: Final = 3  # whom an author may name for a leaf: as many times its share a member carries at most
SPREAD_BYTES_PER_SECOND_MIN: Final = 2 * MIB  # a height's payloads together; slower than 16 Mbit/s is fetched

# --- Frames ---------------------------------------------------------------------------------------------------------
STATEMENT_BYTES_MAX: Final = 512  # the widest consensus statement is below 200
ENVELOPE_BYTES_MAX: Final = 256 * KIB  # a block that lists 500 contributions with two certificates of 100 signatures
APPLICATION_FRAME_BYTES_MAX: Final = 256 * KIB  # a certificate of 1,000 signatures is 100 KiB
REQUEST_BYTES_MAX: Final = 64 * KIB  # lists of digests
RESPONSE_PART_BYTES_MAX: Final = 64 * KIB  # answers are cut up so that consensus frames pass between the parts
RESPONSE_BYTES_MAX: Final = 16 * MIB  # a caller's response_bytes_max may not be larger
HELLO_BYTES_MAX: Final = 1 * KIB  # 465 used; room for a later version's longer body, which must still be readable
BYE_TEXT_BYTES_MAX: Final = 160  # one line of a log

# --- Handshake ------------------------------------------------------------------------------------------------------
CERTIFICATE_BYTES_MAX: Final = 4 * KIB  # ours has about 600
CONNECT_SECONDS_MAX: Final = 3.0  # a path slower than this carries no round
TLS_SECONDS_MAX: Final = 5.0  # two round trips and 2 ms of CPU; bounds slow-loris
HELLO_SECONDS_MAX: Final = 5.0  # one round trip
HANDSHAKES_MAX: Final = 64  # half-open inbound connections, all together: 64 x ~100 KiB of TLS state
HANDSHAKES_PER_IP_MAX: Final = 8  # of these from one IP group of the internet, so that one host cannot take them all
HANDSHAKES_PER_GROUP_MAX: Final = HANDSHAKES_MAX // 4  # of one netgroup; beyond it who comes from elsewhere goes first
HANDSHAKE_SECONDS_MIN: Final = 1.0  # that a handshake has before its place goes to a newcomer, where all are taken

# --- Connections ----------------------------------------------------------------------------------------------------
PEERS_MAX: Final = 96  # a full mesh of 32 members, twice over, and observers; beyond it members, and whom we dialed
INBOUND_PER_IP_MAX: Final = (
    4  # strangers from one IPv4 address or IPv6 /64: three behind one router are what a founder needs
)
INBOUND_PER_GROUP_MAX: Final = PEERS_MAX // 4  # strangers from one netgroup: who fills all places needs four of them
LINKS_PER_PEER_MAX: Final = 3  # the live one and two that are being closed
PING_SECONDS: Final = 5.0  # nothing heard for so long: ask; a member is asked as often anyway, to know its round trip
QUIET_SECONDS: Final = 1.0  # the same between members, who say more in a round; and between unanswered questions
TURN_SECONDS: Final = 0.5  # by which whoever was dialed lets the other end ask first: longer than a round trip, mostly
SILENT_SECONDS: Final = 2.5  # and unanswered for 1: not counted as reachable, and replaced by whoever connects anew
PINGS_UNANSWERED_MAX: Final = 64  # of ours, remembered: nine behind bulk, and a minute's
LIVE_SECONDS: Final = (
    0.05  # for which an answer to who is silent serves: votes come hundreds at a time, and each asks for it
)
DEAD_SECONDS: Final = 15.0  # a busy machine comes back within that time, a route mostly, too
TWIN_SECONDS_MAX: Final = 1.5  # for a connection to prove that it lives, when another process with its key comes
SEND_SECONDS_MAX: Final = 15.0  # for one write of SEND_BYTES: 140 kbit/s, or the peer does not read
RETIRE_SECONDS_MAX: Final = 2.0  # a duplicate connection drains for this long, and a swap must be over by then
SEND_BYTES: Final = 256 * KIB  # urgent frames gathered into one write: fewer system calls
UNSENT_BYTES_MAX: Final = 128 * KIB  # in the socket and not yet on the way: 16 ms at 64 Mbit/s, before a vote's turn
PIECE_SECONDS: Final = 0.016  # of a known uplink, for one piece of bulk: as long as a vote waits for it, at most
PIECE_BYTES_MIN: Final = 16 * KIB  # but a record of TLS is never cut: 16 ms at 8 Mbit/s
WINDOW_BYTES_START: Final = 4 * (
    LEAF_BYTES + KIB
)  # of bulk on its way to a peer of whose link nothing is known: four leaves
WINDOW_BYTES_MIN: Final = 32 * KIB  # two pieces in a round trip, whatever the delay: 2.6 Mbit/s at 100 ms
WINDOW_BYTES_MAX: Final = 16 * MIB  # 1 Gbit/s at 128 ms
DELAY_SECONDS: Final = (
    0.025  # that bulk may add to a round trip: above what Wi-Fi varies by, a third of what an ear notices
)
DELAY_URGENT_SECONDS: Final = (
    0.0025  # the same while votes are on their way: three of them one after the other are a height
)
AGREEMENT_SECONDS: Final = (
    0.25  # after a message of agreement was sent, in which the next one of the height is expected
)
BASE_SECONDS: Final = 300.0  # for which the shortest round trip counts, once or twice: routes change now and then
PACE_LATE_SECONDS_MAX: Final = 0.02  # by which a busy loop may be late without losing its share of the uplink's budget
ALONG_SECONDS_MAX: Final = (
    0.02  # what is passed on in case it is needed: a fiftieth of a repetition, several votes on a LAN
)
READ_BYTES: Final = 256 * KIB  # one read from the socket, and what is taken from TLS before others get their turn
RECORD_BYTES: Final = 16 * KIB  # the most that TLS hands on at once
URGENT_BYTES_MAX: Final = 8 * MIB  # consensus frames waiting for one peer: seconds behind, so dropping it is right
URGENT_FRAMES_MAX: Final = 8192  # the same for small ones: 100 members' votes of 40 views
BULK_BYTES_MAX: Final = 512 * KIB  # bulk waiting for one peer; beyond this its producer waits
INBOX_EVENTS_PER_PEER_MAX: Final = 512  # received and not yet taken by the node; beyond this that peer is not read
INBOX_BYTES_PER_PEER_MAX: Final = 4 * MIB  # the same, for frames that are large
FRAMES_PER_SECOND: Final = 5000.0  # other than answers asked for; 100 members at 10 views a second send 2,000 votes
ANSWER_BYTES_FREE_MIN: Final = (
    4 * KIB
)  # shorter answers count as well: an unasked one costs nothing but our time, and 10 bytes
FRAMES_PER_TURN_MAX: Final = 64  # taken from one peer before others get their turn: a few milliseconds of signatures
STRANGERS_FRAMES_PER_SECOND: Final = (
    2000.0  # of all who are no members together: an eighth of a core of signature checks
)
STRANGERS_FRAMES_BURST: Final = 20000.0  # who does not know the members yet takes the members' frames from it as well
FRAMES_BURST: Final = 20000.0  # a peer that was held up for four seconds catches up at once

# --- Requests -------------------------------------------------------------------------------------------------------
REQUESTS_SERVED_MAX: Final = 32  # handlers running for one peer; more are refused as busy
ANSWERS_AT_ONCE: Final = 4  # in memory for one peer until it has read them: 4 x 2 MiB of blocks
REASON_BYTES_MAX: Final = 200  # of a refusal: one line of a log
REQUESTS_SENT_MAX: Final = 16  # of ours, waiting for one peer's answer; further callers wait

# --- Envelopes ------------------------------------------------------------------------------------------------------
SEEN_ENTRIES_MAX: Final = 16384  # ~2 MiB; 100 members x 2 votes x 80 views
SEEN_SECONDS: Final = 1.0  # a copy within this time is an echo; a later one is a retransmission, which may be needed

# --- Peer exchange and address book ---------------------------------------------------------------------------------
RECORDS_PER_RESPONSE_MAX: Final = 64  # 171 bytes each: 11 KiB
RECORDS_PER_SOURCE_PER_SECOND: Final = 1.0  # new to the book, from one netgroup (or one local peer), after the BURST
RECORDS_PER_SOURCE_BURST: Final = 256.0  # a joiner learns a whole network of 256 at once
SOURCES_MAX: Final = 1024  # netgroups whose share is remembered; to wash one out takes addresses in a thousand others
HOSTS_REMEMBERED_MAX: Final = 4096  # what a host is as a number, and its scope: the whole book twice over, 1 MiB
SHOWN_RECORDS_MAX: Final = 2048  # told or heard on one connection, and not told again there: 64 bytes each
BUCKET_ENTRIES: Final = 64  # of the address book; CometBFT's and bitcoind's number, as the next four
NEW_BUCKETS: Final = 256  # for what we were told: 16,384 entries, ~16 MiB, and only if told from many netgroups
TRIED_BUCKETS: Final = 64  # for what our own dials reached: 4,096 entries, more than a node meets in years
NEW_BUCKETS_PER_SOURCE: Final = 32  # that tellers of one netgroup reach: an eighth of the table
TRIED_BUCKETS_PER_GROUP: Final = 4  # that addresses of one netgroup fall into: a sixteenth
NEW_PLACES_MAX: Final = 4  # buckets for one address that several tell of, each half as likely as the one before
EVICTION_TESTS_MAX: Final = 10  # full buckets of `tried` that wait for a look at their oldest entry
FAILURES_UNPROVEN_MAX: Final = 3  # failed dials that drop an address which never answered: made up, or long gone
FAILURES_PROVEN_MAX: Final = 10  # the same for one that did answer once, but for ADDRESS_SECONDS_MAX no more
FAILURE_SECONDS_MIN: Final = 60.0  # failures closer together count as one: a restart is not three failures
ADDRESS_SECONDS_MAX: Final = 7 * 86400.0  # not heard of, or not reached, for so long: first to make room
ANCHORS_MAX: Final = 2  # links that a restart takes up first: one may be gone, and more say where a node will dial
ANSWER_PERCENT: Final = 23  # of what we know is told to a stranger, so that nobody maps the network by asking a few
ANSWER_RECORDS_MIN: Final = 32  # but so many where there are: a small network is known to all of it
ANSWER_SECONDS: Final = 86400.0  # for so long all strangers of one netgroup are told of the same nodes
ANSWERS_MAX: Final = 256  # such answers kept, 64 names each: 1 MiB
PEX_FREE_REQUESTS: Final = 2  # right after connecting
PEX_REQUESTS_BURST: Final = 16.0  # saved up, at most: eleven kilobytes each
PEX_SECONDS: Final = 10.0  # one more request is allowed per this time, and one for each NEWS that we sent
PEX_TOLD_SECONDS: Final = (
    600.0  # then a record is told again on a connection: its node still lives, or there was no room
)
PEX_ASK_SECONDS: Final = 60.0  # our own asking when nobody has news
NEWS_SECONDS: Final = 0.2  # between two NEWS to everybody: joins of many nodes are told in one
NEWS_PER_SECOND: Final = 40.0  # to all peers together: each brings a question and an answer; forty of these are no load
RECORD_FUTURE_SECONDS_MAX: Final = (
    86400.0  # a sequence number is milliseconds; a day bounds wrong clocks, and squatting
)

# --- Reachability ---------------------------------------------------------------------------------------------------
DIAL_BACK_PEERS: Final = 3  # asked at a time: one may be behind the same router, one may lie
DIAL_BACK_GATHER_SECONDS: Final = 1.0  # from the first peer on, so that those asked can be of several netgroups
DIAL_BACK_AGAIN_SECONDS: Final = 60.0  # while it is not known to be reachable: who opens a port wants to see it soon
DIAL_BACK_CHECK_SECONDS: Final = 600.0  # afterwards: routers forget, addresses change
DIAL_BACK_SECONDS_MAX: Final = 15.0  # for one: CONNECT + TLS + HELLO are 13 s
DIAL_BACK_ANSWERS_MAX: Final = 32  # of the last that were asked; three count
OWN_ADDRESS_GROUPS_MIN: Final = 2  # netgroups that must see this node at an address; one alone could be one liar
LOOK_UP_SECONDS: Final = (
    60.0  # between two looks at our own name, where we announce one: a resolver's cache answers most
)
OWN_RECORDS_MAX: Final = 16  # signed and kept: an address for each interface, and those that peers have shown
DIAL_BACKS_AT_ONCE: Final = 4  # for others, all together; more are told "not now", and ask somebody else
DIAL_BACKS_BURST: Final = 3.0  # for one peer, at its own address only, so that a small frame hits nobody else
DIAL_BACKS_SECONDS: Final = 30.0  # one more for that peer; an honest one asks once a minute at most
PROBE_SECONDS_MAX: Final = 2.0  # a probe keeps its place at the door for as long, after its ACK, to say BYE

# --- Dialing and bans -----------------------------------------------------------------------------------------------
DIALS_MAX: Final = 8  # at once: more would hardly be quicker, and look like a scan of the internet
LOOK_SECONDS: Final = 0.05  # between two looks at whom to dial, however much happens: each goes through what is known
CLAIM_SECONDS: Final = (
    600.0  # for which what a dial showed of an address is remembered: routers give addresses anew now and then
)
OUTBOUND_PEERS_MAX: Final = 32  # full mesh up to here; members are dialed beyond it
OUTBOUND_PEERS_MIN: Final = 8  # dialed by us in any case: who fills our places for callers chooses not all of our peers
OVERLAY_PEERS_MIN: Final = (
    8  # with which, in a committee that is no full mesh, only members are dialed that we are to be linked to
)
OUTBOUND_PER_GROUP_MAX: Final = 1  # links of ours into one netgroup of the internet, members and bootstrap not counted
SEEDED_PEERS_MIN: Final = 8  # peers with which the bootstrap addresses are not needed any more
SEED_WAIT_SECONDS: Final = 3.0  # that an address book which has reached so many gets first
OWN_ADDRESSES_MAX: Final = 64  # at which a dial found this node itself; a liar's relays may lead back to it, too
CANDIDATES_READY: Final = 16  # addresses out of the book that wait for their first dial: two rounds of DIALS_MAX
CANDIDATES_SCANNED_MAX: Final = 1024  # entries looked at for them at a time: a few milliseconds, of a full book
FEELER_SECONDS: Final = 120.0  # between two looks at an unproven address, while there are links enough
BACKOFF_SECONDS: Final = 0.5  # after the first failure, doubled each time, with jitter
BACKOFF_ALONE_SECONDS_MAX: Final = 5.0  # a bootstrap address while nobody is connected: someone waits at a terminal
BACKOFF_QUORUM_SECONDS_MAX: Final = 1.0  # a member while there is no quorum
QUORUM_DIALS_MAX: Final = (
    8  # at once to one member then: a try every half second, each with time for three round trips of a slow path
)
QUORUM_DIAL_SECONDS_MAX: Final = (
    3.0  # for such a try; what is lost on the way is lost, and TCP would repeat it too late
)
QUORUM_DIALS_ALL_MAX: Final = 128  # such tries together: what a committee of 16 needs; larger ones take turns
BACKOFF_MEMBER_SECONDS_MAX: Final = (
    30.0  # a member or a bootstrap address otherwise, and anybody while nobody is connected
)
BACKOFF_OTHER_SECONDS_MAX: Final = 300.0  # anybody else
LASTING_SECONDS: Final = (
    10.0  # a connection that ends sooner counts as a failed dial: a peer that hangs up is not rung at once
)
DIAL_TRIES_MAX: Final = (
    16  # then an address that is neither a member's nor a bootstrap's is forgotten (not while alone)
)
HEAD_START_SECONDS: Final = 0.3  # the lower node id dials first, so that most pairs never dial each other twice
DIAL_TARGETS_MAX: Final = 1024  # addresses out of the book with their waiting times; what failed most makes room
BAN_SECONDS: Final = 60.0  # after a proven fault; short, since a key costs nothing
IP_BAN_SECONDS: Final = 30.0  # for strangers from where a liar came from: shorter, since others may share that address
BANS_MAX: Final = 4096  # of keys, and of IP groups; whoever has so many to spend gains more by other means
REFUSAL_LINES_AT_ONCE: Final = 20  # in the log, of one kind: enough to see one node's whole misfortune
REFUSAL_LINES_PER_SECOND: Final = 1.0  # a day of them is some 20 MB, of which the log keeps the newest
PORTS_TRIED_MAX: Final = 100  # next free port after the default one
