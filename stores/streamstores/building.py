"""What the author of a store needs: the parts of which the stores of this package are built.

A store is a class of its own, without a base class. It checks each request, asks its backend in
one atomic step, and tells its `Changes` what was committed. In the order of that work:

1. **The URL.** `split_store_url` reads the options that the store declares, with the types
   `text`, `flag`, `seconds`, `count` and `one_of`; `merged` settles arguments, URL and
   defaults; `redacted` shows a URL without its secrets.
2. **The request.** `check_creation` and `check_mutation` check the arguments of `create` and
   `append` against the store's `Limits` and return a `Creation` or a `Mutation`. The other
   methods use `check_stream_id`, `check_offset`, `check_max_bytes`, `check_expiry`,
   `check_prefix` and `check_sweep_limit`. Nothing is asked of the backend before.
3. **The rules.** Under the backend's own lock: `has_expired`, then `changes_nothing`, then
   `refuse`, then `Creation.begun`, `mutated` or `with_expiry`, which return the new info. A
   backend that decides in its own language (SQL, a script) makes the same decisions there, and
   calls `changes_nothing` and `refuse` afterwards to learn what to raise. The clock is always
   the backend's.
4. **The stored form.** `stored_info`, `attributes_to_json`, `attributes_from_json`,
   `error_to_json`, `error_from_json`, `to_microseconds` and `from_microseconds` turn fields
   into an info and back. `records_of` makes the records of an append, `page_of` cuts a page.
5. **The news.** A `Changes` is told of each mutation before it returns. A store class
   that derives from `CommonMethods` has `mark_done` and `wait`; `is_namesake` and
   `recheck_after` serve a `wait` of its own. A store that lets its followers subscribe
   (`SharesChanges`) declares `"changes"`.
6. **The errors** of the driver become those of `streamstores.errors`, in one place.

`docs/writing-a-store.md` builds a store with them, and `streamstores.conformance` proves it.
"""

from __future__ import annotations

from streamstores.changes import (
    Changes,
    SharesChanges,
    Subscription,
    changes_of,
    is_namesake,
    recheck_after,
)
from streamstores.limits import (
    check_attributes,
    check_chunks,
    check_error,
    check_expiry,
    check_max_bytes,
    check_offset,
    check_prefix,
    check_seconds,
    check_stream_id,
    check_sweep_limit,
    check_version,
    first_version,
    from_microseconds,
    in_utc,
    to_microseconds,
)
from streamstores.methods import CommonMethods
from streamstores.mutations import (
    Creation,
    Mutation,
    changes_nothing,
    check_creation,
    check_end_state,
    check_mutation,
    check_state,
    has_expired,
    mutated,
    records_at,
    records_of,
    refuse,
    with_expiry,
)
from streamstores.stored_form import (
    attributes_from_json,
    attributes_to_json,
    error_from_json,
    error_to_json,
    page_of,
    stored_info,
)
from streamstores.url_options import (
    StoreURL,
    count,
    flag,
    merged,
    one_of,
    redacted,
    seconds,
    split_store_url,
    text,
)

__all__ = [
    "Changes",
    "CommonMethods",
    "Creation",
    "Mutation",
    "SharesChanges",
    "StoreURL",
    "Subscription",
    "attributes_from_json",
    "attributes_to_json",
    "changes_nothing",
    "changes_of",
    "check_attributes",
    "check_chunks",
    "check_creation",
    "check_end_state",
    "check_error",
    "check_expiry",
    "check_max_bytes",
    "check_mutation",
    "check_offset",
    "check_prefix",
    "check_seconds",
    "check_state",
    "check_stream_id",
    "check_sweep_limit",
    "check_version",
    "count",
    "error_from_json",
    "error_to_json",
    "first_version",
    "flag",
    "from_microseconds",
    "has_expired",
    "in_utc",
    "is_namesake",
    "merged",
    "mutated",
    "one_of",
    "page_of",
    "recheck_after",
    "records_at",
    "records_of",
    "redacted",
    "refuse",
    "seconds",
    "split_store_url",
    "stored_info",
    "text",
    "to_microseconds",
    "with_expiry",
]
