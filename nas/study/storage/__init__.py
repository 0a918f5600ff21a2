"""Where a study is kept: a journal, a database or a proxy, each waited for; and the versions of one study there."""
