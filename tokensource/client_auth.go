package tokensource

import (
	"net/http"
	"net/url"

	"golang.org/x/oauth2"
)

// ClientAuthNames are the ways in which a client proves itself at the token
// endpoint, by their registered names, and one of ours: client_secret_query is
// client_secret_post in the query of the URL.
func ClientAuthNames() []string {
	return []string{"client_secret_basic", "client_secret_post", "client_secret_query", "none"}
}

// clientAuth returns the method that is written, or else that which discovery has
// found, or the default.
func (s *Source) clientAuth(found *tokenEndpoint) string {
	c := &s.config
	switch {
	case c.ClientAuth != "":
		return c.ClientAuth
	case found != nil && found.ClientAuth != "" && c.ClientSecret != "":
		return found.ClientAuth
	case c.ClientSecret != "" && c.Grant != "custom":
		return "client_secret_basic"
	}
	return "none"
}

// authStyle never is auto-detection: that sends a request twice.
func authStyle(clientAuth string) oauth2.AuthStyle {
	if clientAuth == "client_secret_basic" {
		return oauth2.AuthStyleInHeader
	}
	return oauth2.AuthStyleInParams
}

// moveCredentials puts the client's credentials where x/oauth2 cannot put
// them.
func moveCredentials(req *http.Request, c *Config, set *settings, texts url.Values) {
	switch {
	case set.clientAuth == "client_secret_basic" && c.RawBasic:
		req.SetBasicAuth(set.clientID, set.clientSecret)
	case set.clientAuth == "client_secret_query":
		query := url.Values{}
		for _, name := range []string{"client_id", "client_secret"} {
			if texts.Has(name) {
				query.Set(name, texts.Get(name))
				texts.Del(name)
			}
		}
		addQuery(req.URL, query)
	}
}
