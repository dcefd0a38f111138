package tokensource

import (
	"net/url"
	"slices"
)

// clientCredentials is RFC 6749, section 4.4: the client itself owns what it
// asks for.
var clientCredentials = Grant{
	Needs:     []string{"client_id"},
	Takes:     slices.Concat(clientOptions, endpointOptions, scopeOptions),
	Refreshes: true,
	values: func(s *settings) url.Values {
		v := url.Values{"grant_type": {"client_credentials"}}
		setScope(v, s)
		return v
	},
}
