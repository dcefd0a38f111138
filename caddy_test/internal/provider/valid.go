package provider

import "time"

// Valid says whether the API would take an access token now.
func (p *Provider) Valid(token string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	record := p.access[token]
	return record != nil && !record.revoked && (record.expires.IsZero() || time.Now().Before(record.expires))
}
