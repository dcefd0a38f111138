package tokensource

import (
	"net/url"
	"slices"
)

// password is RFC 6749, section 4.3: the resource owner's own name and
// password. Deprecated everywhere, and all that some providers have.
var password = Grant{
	Needs:     []string{"username", "password"},
	Takes:     slices.Concat(clientOptions, endpointOptions, scopeOptions),
	Refreshes: true,
	values: func(s *settings) url.Values {
		v := url.Values{
			"grant_type": {"password"},
			"username":   {s.username},
			"password":   {s.password},
		}
		setScope(v, s)
		return v
	},
}
