package injecttoken

import (
	"net/url"
	"slices"
	"strings"

	"github.com/caddytoken/inject-token/tokensource"
)

// ownAuthorizeParams are parameters of the authorization URL that belong to an
// option, or to us.
var ownAuthorizeParams = map[string]string{
	"client_id":             "write client_id",
	"redirect_uri":          "write redirect_uri",
	"scope":                 "write scope",
	"state":                 "it is made anew for each authorization",
	"code_challenge":        "it is made anew for each authorization",
	"code_challenge_method": "write pkce S256 or pkce off",
}

// checkAuthorization finds what is wrong with the options of what a person does.
func (s *Source) checkAuthorization() *mistake {
	if s.PKCE != "" && s.PKCE != "S256" && s.PKCE != "off" {
		return wrong("pkce", "%q is neither S256 nor off", s.PKCE)
	}
	if s.CodeField != 0 || s.CodeSeparator != "" {
		if err := tokensource.CheckCodeField(s.CodeField, s.CodeSeparator); err != nil {
			return wrong("code_field", "%v", err)
		}
	}
	seen := map[string]bool{}
	for _, p := range s.AuthorizeParams {
		option := "authorize_param " + p.Name
		instead, own := ownAuthorizeParams[p.Name]
		switch {
		case p.Name == "":
			return wrong("authorize_param", "a parameter has no name")
		case own:
			return wrong(option, "this is no further parameter; %s", instead)
		case seen[p.Name] && p.Name != "resource": // RFC 8707
			return wrong(option, "this stands here twice")
		}
		seen[p.Name] = true
	}
	if s.RedirectURI == "" || len(tokensource.Placeholders(s.RedirectURI)) > 0 {
		return nil
	}
	return checkRedirectURI(s.RedirectURI)
}

// checkRedirectURI wants what RFC 6749, section 3.1.2 wants. What a program other
// than a browser opens is not for us to say.
func checkRedirectURI(text string) *mistake {
	u, err := url.Parse(text)
	switch {
	case err != nil || !u.IsAbs() || slices.Contains([]string{"http", "https"}, u.Scheme) && u.Host == "":
		return wrong("redirect_uri", "a whole URI is needed as it is registered at the provider, such as https://here.example.org/oauth/callback; leave it out where the provider shows a code")
	case u.Fragment != "" || strings.Contains(text, "#"):
		return wrong("redirect_uri", "a redirect URI has no fragment (#…)")
	case strings.ContainsAny(text, " \t\r\n"):
		return wrong("redirect_uri", "there is a blank in it")
	}
	return nil
}
