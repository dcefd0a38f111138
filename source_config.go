package injecttoken

import (
	"net/http"
	"time"

	"github.com/caddytoken/inject-token/tokensource"
)

// expiresInUnits are the units that expires_in may have.
var expiresInUnits = map[string]time.Duration{
	"":   time.Second,
	"s":  time.Second,
	"ms": time.Millisecond,
	"m":  time.Minute,
	"h":  time.Hour,
}

const userAgent = "caddy-inject-token"

// obtainer returns what obtains a token of this source, over a transport.
func (s *Source) obtainer(transport http.RoundTripper, others tokensource.Others) (*tokensource.Source, error) {
	c := tokensource.Config{
		Grant:           s.Grant,
		TokenURL:        s.TokenURL,
		Issuer:          s.Issuer,
		AuthorizeURL:    s.AuthorizeURL,
		DeviceURL:       s.DeviceURL,
		RevokeURL:       s.RevokeURL,
		RedirectURI:     s.RedirectURI,
		PKCE:            s.PKCE,
		CodeField:       s.CodeField,
		CodeSeparator:   s.CodeSeparator,
		ClientID:        s.ClientID,
		ClientSecret:    s.ClientSecret,
		ClientAuth:      s.ClientAuth,
		RawBasic:        s.ClientAuthRaw,
		PrivateKey:      s.PrivateKey,
		KeyID:           s.KeyID,
		SigningAlg:      s.SigningAlg,
		ClientAssertion: s.ClientAssertion,
		DPoP:            s.DPoP,
		SubjectToken:    s.SubjectToken,
		ActorToken:      s.ActorToken,
		Username:        s.Username,
		Password:        s.Password,
		RefreshToken:    s.RefreshToken,
		Scopes:          s.Scopes,
		ScopeSeparator:  s.ScopeSeparator,
		Params:          params(s.Params),
		DefaultLifetime: time.Duration(s.DefaultLifetime),
		Timeout:         time.Duration(s.Timeout),
		InsecureHTTP:    s.InsecureHTTP,
		Transport:       transport,
		Lookup:          lookup,
		Others:          others,
		UserAgent:       userAgent,
	}
	c.SubjectTokenType, c.ActorTokenType = s.SubjectTokenType, s.ActorTokenType
	c.ClientCertificate = s.hasClientCertificate()
	for _, claim := range s.Claims {
		c.Claims = append(c.Claims, tokensource.Claim(claim))
	}
	for _, p := range s.AuthorizeParams {
		c.AuthorizeParams = append(c.AuthorizeParams, tokensource.Param{Name: p.Name, Value: p.Value})
	}
	if s.TokenRequest != nil {
		c.TokenRequest = s.TokenRequest.request()
	}
	if s.RefreshRequest != nil {
		refresh := s.RefreshRequest.request()
		c.RefreshRequest = &refresh
	}
	if r := s.TokenResponse; r != nil {
		c.Response = tokensource.Response{
			AccessToken:     r.AccessToken,
			RefreshToken:    r.RefreshToken,
			ExpiresIn:       r.ExpiresIn,
			ExpiresInUnit:   expiresInUnits[r.ExpiresInUnit],
			ExpiresAt:       r.ExpiresAt,
			ExpiresAtFormat: r.ExpiresAtFormat,
			Error:           r.Error,
			ErrorOK:         r.ErrorOK,
			Expose:          r.Expose,
		}
	}
	return tokensource.New(c)
}

func (r *TokenRequest) request() tokensource.Request {
	out := tokensource.Request{
		URL:      r.URL,
		Method:   r.Method,
		Encoding: r.Encoding,
		Params:   params(r.Params),
	}
	for _, h := range r.Headers {
		out.Header = append(out.Header, tokensource.Header(h))
	}
	if r.Body != nil {
		out.Body = &tokensource.Body{ContentType: r.Body.ContentType, Template: r.Body.Template}
	}
	return out
}

func params(list []Param) []tokensource.Param {
	var out []tokensource.Param
	for _, p := range list {
		out = append(out, tokensource.Param(p))
	}
	return out
}
