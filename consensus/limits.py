"""Every bound on what a peer can make this package hold or compute, with the reason for its value.

A bound that decides whether a block is valid is part of the protocol (marked so): changing it is a new chain version.
"""

MEMBERS_MAX = 128
"""Protocol. Members of a committee: a certificate of 128 is 12 KB, and full-mesh votes of 128 are 33 k messages a height."""

CONTRIBUTIONS_PER_BLOCK_MAX = 512
"""Protocol. Four per member leaves room for contributors on probation; 512 of them are 90 KB of block and 20 ms of Ed25519."""

EVIDENCE_PER_BLOCK_MAX = 16
"""Protocol. Proofs cost two signature checks each; the rest waits for the next block."""

EVIDENCE_AGE_HEIGHTS_MAX = 1000
"""Protocol. Older proofs are refused, so that what the chain must remember about the caught is bounded."""

BAN_HEIGHTS = 1000
"""Protocol. For so long nobody takes contributions of somebody who was caught: about a day of one-minute rounds."""

REQUESTS_PER_BLOCK_MAX = 16
"""Protocol. A join costs three signature checks; the rest waits for the next block."""

REQUEST_AGE_HEIGHTS_MAX = 100
"""Protocol. Long enough for a request to reach an honest proposer, short enough to remember whose were carried out."""

INVITATION_HEIGHTS_MAX = 100_000
"""Protocol. Some two months of one-minute rounds; a used token is remembered until its invitation expires."""

PERMITTED_MAX = 1024
"""Protocol. Keys that may become members, in the genesis: eight committees of the largest size."""

INVITED_MAX = 256
"""Protocol. Under `invite`, keys that keep the permission of a seat: two committees of the largest size. Never refuses anybody."""

GUEST_HEIGHTS = 10_000
"""Protocol. A week of one-minute rounds to take the seat that one was invited to; two blocks are enough for who is there."""

GUESTS_PER_INVITER_MAX = 16
"""Protocol. One member's guests who have no seat yet: a block full, or one place every 625 heights if none of them ever comes."""

TOKENS_PER_INVITER_MAX = 64
"""Protocol. One member's used tokens that have not expired: the usual committee. Tokens that nobody takes a seat with are used 16 in
10,000 heights, so that four times as many fit; who invites for 100,000 heights waits sooner, and nobody but itself."""

GUESTS_MAX = INVITED_MAX * GUESTS_PER_INVITER_MAX
TOKENS_USED_MAX = INVITED_MAX * TOKENS_PER_INVITER_MAX
"""Protocol. 4096 guests and 16,384 tokens, 1.5 MB. Only who is permitted has any, so no member's can be in the way of another's."""

ABSENT_HEIGHTS = 50
"""Protocol. Silence for so long is absence: about an hour of one-minute rounds, longer than a restart or an upgrade takes."""

ABSENT_TURNS = 2
"""Protocol. Own turns missed as well: whoever is merely slow is in no certificate, but proposes when its turn comes."""

CANDIDATES_MAX = 4096
"""Protocol. Non-members whose accepted contributions are counted; fresh keys are free, so the table must not grow with them."""

VIEW_MAX = 2**31 - 1
"""Protocol. valid_view is a signed 32-bit integer on the wire."""

BLOCK_BYTES_MAX = 128 * 1024
"""Just above the largest block that the bounds above allow (113 KB)."""

CERTIFICATE_BYTES_MAX = 64 + MEMBERS_MAX * (32 + 32 + 64)
"""The widest certificate: a view certificate of every member."""

ATTACHMENT_BYTES_MAX = BLOCK_BYTES_MAX + CERTIFICATE_BYTES_MAX + 16
"""A proposal's block and prepare certificate with their two lengths."""

VIEWS_AHEAD_MAX = 1
"""Votes for later views than the next one are dropped: view certificates bring a node there, the rebroadcast brings the votes."""

VIEWS_KEPT_MAX = 64
"""Vote tables behind the current view. Forgetting other people's old votes costs liveness at worst, and certificates outlive them."""

BLOCKS_PER_HEIGHT_MAX = 64
"""Blocks of one height beyond those that a certificate names and those that we voted for; two per view are all that come."""

WAITING_PER_MEMBER_MAX = 4
"""Messages of one kind kept per member and height that has not started: two views, and a conflict in each."""

CONTRIBUTIONS_WATCHED_MAX = 4096
"""Contributions per height remembered to notice a second one; the members' are remembered even when this is full."""

EVIDENCE_PENDING_MAX = 768
"""Proofs waiting for a block; one per author and kind, so every member of the largest committee for every kind."""

REQUESTS_PENDING_MAX = 256
"""Requests waiting for a block; one per author and kind, so a committee that leaves and as many who join."""

DECISIONS_KEPT_MAX = 64
"""Decisions remembered to notice a fork of the past, with the certificates under them: some 25 KB each in the largest committee."""

FORK_CERTIFICATES_MAX = 64
"""Certificates of the other side that are compared for one forked height: one PREPARE and one COMMIT of every view that mattered."""

VERIFIED_SIGNATURES_MAX = 16384
"""Signatures remembered as good. 400 members' votes of a height; about 6 MB."""

DELAY_SECONDS_DEFAULT, DELAY_SECONDS_MIN, DELAY_SECONDS_MAX = 0.1, 0.05, 10.0
"""Delta, the one-way delay that all but 1 % of messages keep. The floor stands above a loaded scheduler's pauses."""

CHECK_SECONDS_DEFAULT, CHECK_SECONDS_MIN, CHECK_SECONDS_MAX = 1.0, 0.5, 600.0
"""F, fetching and recomputing a block. The floor keeps a busy two-core machine from changing views for nothing."""

TIMEOUT_GROWTH = 1.25
"""Each view waits a quarter longer than the one before, so that some view is long enough for any delay."""

TIMEOUT_EXPONENT_MAX = 64
"""1.25**64 is 1.6 million: beyond it a longer wait helps nobody and the power only loses digits."""

TIMEOUT_CARRIED_MAX = 12
"""Of a height's last view at most this much carries over: one bad hour must not make every later failure cost minutes."""

REBROADCAST_SECONDS = 1.0
"""Mean time between repetitions: bounds what one lost message costs, at a few hundred bytes a second."""

REBROADCAST_JITTER = 0.25
"""Spread of that time, so that nodes started together do not repeat together."""
