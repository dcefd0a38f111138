package tokensource

import "net/url"

// custom is a login that is not OAuth: nothing is sent but what the
// configuration spells out.
var custom = Grant{
	Takes:  []string{"client_id", "client_secret", "client_auth"},
	values: func(*settings) url.Values { return url.Values{} },
}
