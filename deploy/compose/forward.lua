-- Orthanc forwards each series that has become stable to the node, but nothing that the node made:
-- otherwise every result would come back (the node would refuse to process it, and the work would be wasted).
function OnStableSeries(seriesId, tags, metadata)
  if tags['Manufacturer'] ~= nil and string.find(tags['SeriesDescription'] or '', '^AI ') then
    return
  end
  local job = { Resources = { seriesId }, Synchronous = false, Permissive = true, StorageCommitment = false }
  RestApiPost('/modalities/node/store', DumpJson(job, true))
end
